"""Whether a GPU computes the same: as the stored results, as plain PyTorch in float64, with graphs and without, run after run."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

import golden
import torch
from batches import noise
from released import manifest, model_config
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from cdal.checkpoint import from_published
from cdal.config import preset
from cdal.devices import fused
from cdal.devices.precision import Rounded, numerics
from cdal.diffusion import Diffusion
from cdal.discriminator import Discriminator
from cdal.generator import Generator
from cdal.losses import r1_penalty
from cdal.predict import sampler
from cdal.sections import TrainingConfig
from cdal.trainer import Trainer
from on_gpu.run import FAST, PUBLISHED, Run, configuration, kinds

TOLERANCE = {"fp32": 2e-4, "tf32": 2e-2, "bf16": 5e-2}  # of a norm
CANCELLING = {"fp32": 2e-3, "tf32": 0.1, "bf16": 0.25}  # gradients of the discriminator: true and generated pairs nearly cancel
OF_A_KERNEL = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_RELEASED = ("gen_hippo_small", "gen_monu_small", "disc_small", "disc_large", "sample_hippo_T4", "sample_monu_T4", "sample_monu_T2")
_RELEASED += ("full_hippo", "full_monu")


def parity(run: Run) -> None:
    """Every check is a row: by how much the worst of its numbers differs, and whether all are within their tolerances."""
    precisions = ("fp32", "tf32", "bf16") if run.on_gpu else ("fp32", "bf16")
    names = FAST[:1] if run.quick else (*FAST, *PUBLISHED[::-1])
    warming = _start_warming(run, names) if run.on_gpu else []
    if run.on_gpu:
        run.row({"check": "kernels are there"}, lambda: {"within": fused.available(torch.zeros(1, device=run.device))})
    else:
        run.note("a CPU has no CUDA graphs; its fused operations are plain PyTorch, held against float64 all the same")
    run.row({"check": "two deterministic runs", "precision": "bf16"}, lambda: _deterministic(run))
    for precision in precisions:
        for name in tuple(golden.MODELS)[1 if run.quick else 0 :]:
            about = {"check": f"golden {name}", "precision": precision}
            run.row(about, lambda precision=precision, name=name: _golden(run, name, precision))
    for precision in ("bf16", "fp32"):
        run.row({"check": "sampling", "precision": precision}, lambda precision=precision: _sampled(run, precision))
        for kind, deterministic in {"deterministic": True, "fastest": False}.items() if run.on_gpu else ():
            about = {"check": f"graphs, {kind}", "precision": precision}
            run.row(about, lambda precision=precision, deterministic=deterministic: _replayed(run, precision, deterministic))
    for process in warming:
        process.join(max(0.0, run.left() - 15))
    for name in names:
        for precision in ("bf16", "fp32"):
            about = {"check": f"kernels of {name}", "precision": precision}
            run.row(about, lambda name=name, precision=precision: _kernels(run, name, precision))
    for precision in precisions if run.parity else ():
        for name in _RELEASED if precision != "bf16" else [name for name in _RELEASED if not name.startswith("disc")]:
            about = {"check": f"released {name}", "precision": precision}
            run.row(about, lambda name=name, precision=precision: _released(run, name, precision))


def _judged(differences: dict[str, float], tolerances: dict[str, float]) -> dict[str, Any]:
    """The row of a check."""
    excess = {name: difference / max(tolerances[name], 1e-30) for name, difference in differences.items()}
    ranked = sorted(excess, key=lambda name: -excess[name] if excess[name] == excess[name] else -float("inf"))  # NaN is the worst
    worst = ranked[0]
    within = all(differences[name] <= tolerances[name] for name in differences)
    values = {"worst": worst, "difference": differences[worst], "tolerance": tolerances[worst], "within": within}
    return values | {"compared": len(differences), "differences": {name: differences[name] for name in ranked[:40]}}


def _relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a fraction of the norm."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


# ------------------------------------------------------------------------------------------------- stored results, run after run


def _golden(run: Run, name: str, precision: str) -> dict[str, Any]:
    expected, found = load_file(golden.FOLDER / f"{name}.safetensors"), golden.results(name, str(run.device), precision)
    assert set(found) == set(expected)
    differences = {key: _relative(found[key], expected[key]) for key in expected}
    cancelling = {key for key in expected if key.endswith("discriminator_gradients")}
    return _judged(differences, {key: (CANCELLING if key in cancelling else TOLERANCE)[precision] for key in expected})


def _steps(run: Run, precision: str, numbers: list[int], *, deterministic: bool, graphs: bool) -> dict[str, Tensor]:
    """The losses of some steps of hippocampus_fast, by their numbers, and all tensors after them."""
    config = configuration(run, "hippocampus_fast", precision).replace({"training.deterministic": deterministic})
    trainer = Trainer(config, run.device, graphs=graphs)
    golden.load_formula_weights(trainer.generator)
    if trainer.discriminator is not None:
        golden.load_formula_weights(trainer.discriminator)
    losses: list[Tensor] = []
    for seed, number in enumerate(numbers):
        trainer.steps = number
        losses += trainer.step(*noise(config, run.device, seed)).values()
    recorded = trainer._graphs._recordings
    if graphs and run.on_gpu and len(numbers) > 5 and not recorded:
        raise RuntimeError("no step was recorded as a graph")
    return {"losses": torch.stack(losses)} | trainer.state()


def _deterministic(run: Run) -> dict[str, Any]:
    one, other = (_steps(run, "bf16", [0, 1, 2, 3, 4], deterministic=True, graphs=True) for _ in range(2))
    differences = {key: float((one[key].double() - other[key].double()).abs().max()) for key in one}
    return _judged(differences, dict.fromkeys(differences, 0.0))


def _replayed(run: Run, precision: str, deterministic: bool) -> dict[str, Any]:
    """Every kind of step three times: the second is recorded, the third only replayed."""
    numbers = [0, *(number for number in kinds(configuration(run, "hippocampus_fast", precision)) for _ in range(3))]
    graphs, eager = (_steps(run, precision, numbers, deterministic=deterministic, graphs=graphs) for graphs in (True, False))
    weights = [key for key in eager if key.startswith(("generator.", "discriminator.", "average."))]
    differences = {"losses": _relative(graphs["losses"], eager["losses"])}
    differences["weights"] = _relative(*(torch.cat([side[key].flatten() for key in weights]) for side in (graphs, eager)))
    tolerance = 0.0 if deterministic else 10 * TOLERANCE[precision] if precision == "fp32" else TOLERANCE[precision]
    return _judged(differences, dict.fromkeys(differences, tolerance))


def _sampled(run: Run, precision: str) -> dict[str, Any]:
    """With graphs, replayed, and without; and bf16 beside float32."""
    config = configuration(run, "hippocampus_fast", precision)
    model = config.model
    generator = Generator.from_config(model).to(run.device)
    golden.load_formula_weights(generator)
    rng = torch.Generator(run.device).manual_seed(0)
    images = torch.randn(8, model.image_channels, model.image_size, model.image_size, generator=rng, device=run.device)

    def masks(precision: str, graphs: bool) -> Tensor:
        sample = sampler(config.replace({"training.precision": precision}), generator, graphs=graphs)
        for _ in range(3):
            drawn = sample(images, [torch.Generator(run.device).manual_seed(vote) for vote in range(3)])
        return drawn

    eager = masks(precision, False)
    differences = {"with graphs": _relative(masks(precision, True), eager)}
    if precision != "fp32":
        differences["beside float32"] = _relative(eager, masks("fp32", False))
    return _judged(differences, {"with graphs": TOLERANCE[precision] / 2, "beside float32": 2 * TOLERANCE[precision]})


# ------------------------------------------------------------------------------------------------------------------------ kernels


def _kernels(run: Run, name: str, precision: str) -> dict[str, Any]:
    """All fused operations of a preset's steps, in their shapes, against plain PyTorch in float64: values and derivatives."""
    differences: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    calls = _calls(run, name, precision)
    for operation, arguments in calls.values():
        if differences and run.left() < 3:
            run.note(f"not all calls of {name} were compared")
            break
        dtype = next(x.dtype for x in tree_flatten(arguments)[0] if isinstance(x, Tensor))
        key = f"{operation.__name__} {str(dtype).removeprefix('torch.')}"
        tolerances[key] = OF_A_KERNEL[dtype]
        differences[key] = max(differences.get(key, 0.0), _difference(operation, arguments, run))
    return _judged(differences, tolerances) | {"compared": len(calls)}


def _start_warming(run: Run, names: Sequence[str]) -> list[BaseProcess]:
    """Processes that each make some steps, so that Triton compiles what they need, hundreds of variants, on many cores at once."""
    context = get_context("spawn")
    tasks = [(run, name, precision) for name in names[::-1] for precision in ("bf16", "fp32")]
    processes = [context.Process(target=_warm, args=task, daemon=True) for task in tasks]
    for process in processes:
        process.start()
    return list(processes)


def _warm(run: Run, name: str, precision: str) -> None:
    config = configuration(run, name, precision).replace({"training.deterministic": True})  # no time to find fast convolutions
    trainer = Trainer(config, run.device, graphs=False)
    for number in (0, *kinds(config)):
        trainer.steps = number
        trainer.step(*noise(config, run.device))


def _calls(run: Run, name: str, precision: str) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Every call of a fused operation in a preset's steps, the arguments' tensors without data."""
    calls: dict[str, tuple[Callable[..., Any], Any]] = {}

    def recording(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            empty = [torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x for x in leaves]
            told = [(x.shape, x.dtype) if isinstance(x, Tensor) else x for x in empty]
            calls.setdefault(f"{operation.__name__} {told}", (operation, tree_unflatten(empty, structure)))
            return operation(*args, **kwargs)

        return call

    config = configuration(run, name, precision).replace({"training.deterministic": True})
    trainer = Trainer(config, run.device, graphs=False)
    with ExitStack() as patches:
        for operation in dict(inspect.getmembers(fused, inspect.isfunction)).values():
            if (
                operation.__module__ == fused.__name__
                and not operation.__name__.startswith("_")
                and operation is not fused.available
            ):
                patches.enter_context(mock.patch.object(fused, operation.__name__, recording(operation)))
        for number in (0, *kinds(config)):
            trainer.steps = number
            trainer.step(*noise(config, run.device))
    return calls


def _difference(operation: Callable[..., Any], arguments: Any, run: Run) -> float:
    """The largest of an operation's value and its derivatives, of the second order too where R1 needs them."""
    leaves, structure = tree_flatten(arguments)
    places = [place for place, x in enumerate(leaves) if isinstance(x, Tensor)]
    rng = torch.Generator(run.device).manual_seed(0)

    def normal(like: Tensor) -> Tensor:
        x = torch.randn(like.shape, generator=rng, device=run.device).to(like.dtype)
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x

    given = [normal(leaves[place]) for place in places]
    blurs = operation.__name__ == "fir" and leaves[1] == leaves[2]
    twice = given[0].dtype == torch.float32 and not operation.__name__.startswith("group_norm") and not blurs
    along: list[Tensor] = []
    results: list[list[Tensor]] = []
    for dtype in (None, torch.float64):  # float64 is left to PyTorch
        tensors = [x.detach().to(dtype or x.dtype).requires_grad_() for x in given]
        args, kwargs = tree_unflatten(_with(leaves, places, [1 * x for x in tensors]), structure)  # may be written over
        outputs = [x for x in tree_flatten(operation(*args, **kwargs))[0] if isinstance(x, Tensor)]
        along = along or [normal(x) for x in outputs]
        weights = [x.to(dtype or x.dtype).requires_grad_(twice) for x in along]
        first = torch.autograd.grad(outputs, tensors, weights, create_graph=twice)
        results.append([*outputs, *first])
        if twice:
            second = [x.to(dtype or x.dtype) for x in given]
            results[-1] += torch.autograd.grad(first, weights, second, materialize_grads=True)
    scale = float(along[0].detach().double().norm())  # some derivatives are 0
    differences = [
        (float((x.detach().double() - y.detach()).norm()), float(y.detach().norm())) for x, y in zip(*results, strict=True)
    ]
    return max(difference / max(norm, scale) for difference, norm in differences)


def _with(leaves: list[Any], places: list[int], tensors: list[Tensor]) -> list[Any]:
    filled = list(leaves)
    for place, tensor in zip(places, tensors, strict=True):
        filled[place] = tensor
    return filled


# ----------------------------------------------------------------------------------------- vectors made by running the release


def _released(run: Run, name: str, precision: str) -> dict[str, Any]:
    """Networks alone in their precision; gradients, and R1, in float32."""
    kind, file = name.partition("_")[0], f"{name}.io" if name.startswith(("gen", "disc")) else name
    io = {key: value.to(run.device) for key, value in load_file(run.parity / f"{file}.safetensors").items()}
    found: dict[str, Tensor] = {}
    with numerics(TrainingConfig(precision=precision), run.device):
        if kind in ("gen", "full"):
            generator = _generator(run, name)
            x, y, z = (io[key].requires_grad_() for key in "xyz")
            network = Rounded(generator).now() if precision == "bf16" else generator
            found["out"] = network(x, io["t"], network.encode(y), z).float()
            if kind == "gen" and precision != "bf16":
                gradients = torch.autograd.grad((found["out"] * io["cot"]).sum(), (x, y, z))
                found |= dict(zip(("grad_x", "grad_y", "grad_z"), gradients, strict=True))
        if kind == "full":
            found["d_logits"] = _discriminator(run, name)(io["d_x"], io["t"], io["x"])
        if kind == "disc":
            discriminator = _discriminator(run, name)
            x = io["b2.x"].requires_grad_()
            found["b2.logits"] = logits = discriminator(x, io["b2.t"], io["b2.x_t"])
            found["b2.r1_half"] = r1_penalty(logits, x, gamma=1.0).reshape(1)
        if kind == "sample":
            found["out"] = _sample(run, name, io, precision)
    return _judged({key: _relative(value, io[key]) for key, value in found.items()}, dict.fromkeys(found, TOLERANCE[precision]))


def _generator(run: Run, name: str) -> Generator:
    if name.startswith("full"):
        generator = Generator.from_config(preset("monuseg" if name == "full_monu" else "hippocampus").model)
        golden.load_formula_weights(generator)
    else:
        generator = Generator.from_config(model_config(run.parity, name))
        generator.load_state_dict(from_published(generator, load_file(run.parity / f"{name}.params.safetensors")))
    return generator.to(run.device, memory_format=torch.channels_last)


def _discriminator(run: Run, name: str) -> Discriminator:
    if name.startswith("full"):
        discriminator = Discriminator.from_config(preset("monuseg" if name == "full_monu" else "hippocampus").model)
        golden.load_formula_weights(discriminator)
    else:
        kind, masks = ("small", 3) if name == "disc_small" else ("large", 1)
        discriminator = Discriminator(kind=kind, mask_channels=masks, width=8, time_embedding=32)
        discriminator.load_state_dict(from_published(discriminator, load_file(run.parity / f"{name}.params.safetensors")))
    return discriminator.to(run.device, memory_format=torch.channels_last)


@torch.no_grad()
def _sample(run: Run, name: str, io: dict[str, Tensor], precision: str) -> Tensor:
    about = manifest(run.parity)["sampling"][name]
    generator, last = _generator(run, about["params"].removesuffix(".params")), about["T"] - 1
    network = Rounded(generator).now() if precision == "bf16" else generator
    features = network.encode(io["y"])
    return (
        Diffusion(about["T"])
        .to(run.device)
        .sample(
            lambda x, t, z: network(x, t, features, z).float(),
            io["x_init"],
            lambda t: io["latents"][last - t],
            lambda t: io["noises"][last - t],
        )
    )
