"""Loss weights, attention and the diffusion: what each number does."""

import pytest
import torch

from cdal.diffusion import Diffusion
from cdal.losses import attend, soft_dice_loss, spatial_attention


def test_attention_strength_runs_from_nothing_to_the_released_recipe() -> None:
    mask, attention = torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(attend(mask, attention, 0.0), mask)
    torch.testing.assert_close(attend(mask, attention, 1.0), mask * attention)
    torch.testing.assert_close(attend(mask, attention, 0.25), 0.75 * mask + 0.25 * mask * attention)


def test_normalised_attention_fills_the_unit_interval() -> None:
    feature = 100 * torch.randn(3, 5, 8, 8) - 40
    attention = spatial_attention(feature, (8, 8), normalised=True)
    assert attention.shape == (3, 1, 8, 8)
    torch.testing.assert_close(attention.amin(dim=(1, 2, 3)), torch.zeros(3))
    torch.testing.assert_close(attention.amax(dim=(1, 2, 3)), torch.ones(3))


def test_soft_dice_of_right_wrong_and_empty_masks() -> None:
    mask = -torch.ones(1, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    assert soft_dice_loss(mask, mask) == 0
    assert soft_dice_loss(-mask, mask) > 0.9
    empty = -torch.ones(1, 1, 8, 8)
    assert soft_dice_loss(empty, empty) == 0

    classes = torch.cat([-mask, mask, empty], dim=1)  # background, one organ, one absent
    assert soft_dice_loss(classes, classes) == 0
    half_empty = torch.cat([mask, empty])  # samples without the class must not hide that it was missed in another
    assert soft_dice_loss(torch.cat([empty, empty]), half_empty) > 0.9
    background_wrong = torch.cat([mask, mask, empty], dim=1)
    assert soft_dice_loss(background_wrong, classes) == 0


@pytest.mark.parametrize("timesteps", [1, 2, 4, 8])
def test_sampling_with_a_perfect_denoiser_returns_its_mask(timesteps: int) -> None:
    clean = torch.randn(2, 1, 4, 4).sign()
    seen: list[int] = []

    def denoise(_noisy: torch.Tensor, t: torch.Tensor, _z: torch.Tensor) -> torch.Tensor:
        seen.append(int(t[0]))
        return clean

    out = Diffusion(timesteps).sample(
        denoise, torch.randn(2, 1, 4, 4), lambda _: torch.zeros(2, 1), lambda _: torch.randn(2, 1, 4, 4)
    )
    assert torch.equal(out, clean)
    assert seen == list(reversed(range(timesteps)))


def test_forward_process_ends_in_noise() -> None:
    diffusion = Diffusion(4)
    assert diffusion.total_signal[0] == 1
    assert diffusion.total_noise[0] == 0
    assert diffusion.total_signal[-1] < 0.01
    torch.testing.assert_close(diffusion.total_signal**2 + diffusion.total_noise**2, torch.ones(5))
