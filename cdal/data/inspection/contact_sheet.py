"""An inspection as one HTML file that needs nothing else: its tables, and every case as a small picture under its mask."""

import colorsys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdal.data.dataset import IGNORED
from cdal.data.inspection import Finding, Inspection, Thumbnail, class_rows, fold_rows, overview

_COLOURS = ("#00d5ff", "#ff9d1e", "#48e07f", "#ff5fa8", "#ffe34d", "#a78bff", "#ff6b57", "#7df0d8")  # bright on grey and on tissue
_FILL, _OUTLINE = 64, 255  # opacity


def contact_sheet(found: Inspection) -> str:
    """The page; all text in it is escaped."""
    colours = [_colour(number) for number in range(len(found.classes))]
    state = _list("Problems", "bad", found.problems, "to put right before training") + _findings(found.findings)
    state += _list("Decided for you", "note", found.notes, "options say otherwise")
    shown = [number for number, case in enumerate(found.cases) if case.id in found.thumbnails]
    note = f"The first {len(shown)} of {len(found.cases):,} cases." if len(shown) < len(found.cases) else ""
    odd: dict[str, list[str]] = {}
    for finding in found.findings:
        for case_id in finding.cases:
            odd.setdefault(case_id, []).append(finding.kind)
    title = f"{found.folder.name}: {len(found.cases):,} cases"
    legend = "".join(
        f'<li><span class="swatch" style="--colour: {colour}"></span>{escape(name)}</li>'
        for name, colour in zip(found.classes, colours, strict=True)
    )
    volumes = any(found.thumbnails[found.cases[number].id].slice is not None for number in shown)
    what = "Of each volume the axial slice with most foreground, front at the top, patient's right on the left. " if volumes else ""
    figures = "\n".join(_figure(found, number, colours, odd) for number in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(found.folder.name)} <span>{escape(_subtitle(found))}</span></h1></header>
<main>
{state}
<section class="panel"><h2>Overview</h2><table class="facts"><tbody>{_facts(overview(found))}</tbody></table></section>
<div class="pair">
<section class="panel"><h2>Classes</h2>
{_table(("label", "class", "share", "cases"), class_rows(found), numbers=(0, 2, 3))}
<p class="muted">Share of all pixels or voxels, and how many cases have the class.</p></section>
{_folds(fold_rows(found))}
</div>
<section><h2>Cases</h2>
<p class="muted">{what}{escape(note)}</p>
<input type="checkbox" id="plain"><label for="plain">without masks</label><ul class="legend">{legend}</ul>
<div class="cases">
{figures}
</div></section>
</main>
</body>
</html>
"""


def _subtitle(found: Inspection) -> str:
    state = f"{len(found.problems)} problem{'' if len(found.problems) == 1 else 's'}" if found.problems else "ready to train"
    return f"{len(found.cases):,} cases read as {found.dataset}, {state}"


def _list(title: str, kind: str, sentences: Sequence[str], what: str) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="panel {kind}"><h2>{title} <span>{len(sentences)}, {what}</span></h2><ul>{items}</ul></section>'


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
    kinds = [' class="num"' if column in numbers else "" for column in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(value)}</td>" for value, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _folds(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    table = _table(("fold", "name", "train", "validation", "test"), rows, numbers=(0, 2, 3, 4))
    return f'<section class="panel"><h2>Folds</h2>{table}<p class="muted">Cases that train, validate and test.</p></section>'


def _findings(found: Sequence[Finding]) -> str:
    if not found:
        return ""
    items = "".join(f'<li>{escape(one.text)}<br><span class="muted">The search: {escape(one.action)}.</span></li>' for one in found)
    what = "allowed, but perhaps not meant"
    return f'<section class="panel warn"><h2>Worth a look <span>{len(found)}, {what}</span></h2><ul>{items}</ul></section>'


def _figure(found: Inspection, number: int, colours: Sequence[str], odd: Mapping[str, Sequence[str]]) -> str:
    case, counts, small = found.cases[number], found.counts[number], found.thumbnails[found.cases[number].id]
    height, width = small.label.shape
    present = [name for value, name in enumerate(found.classes, start=1) if counts[value]]
    place = "" if small.slice is None else f", slice {small.slice + 1} of {case.size[2]}"
    size = " × ".join(map(str, case.size))
    tags = "" if present else ' <span class="empty">empty mask</span>'
    tags += "".join(f' <span class="empty">{escape(kind)}</span>' for kind in odd.get(case.id, ()) if kind != "empty")
    alt = f"{case.id} with {', '.join(present) or 'no class'} marked"
    return (
        f'<figure><div class="frame"><img src="{_picture(small.pixels)}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"><img class="mask" src="{_overlay(small, colours)}" alt=""></div>'
        f"<figcaption><b>{escape(case.id)}</b>{size}{place}{tags}</figcaption></figure>"
    )


def _picture(pixels: npt.NDArray[np.uint8]) -> str:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(data.getvalue()).decode()}"


def _overlay(thumbnail: Thumbnail, colours: Sequence[str]) -> str:
    """The mask: classes filled faintly, their borders drawn fully; transparent elsewhere."""
    label = np.where(thumbnail.label == IGNORED, 0, thumbnail.label) if thumbnail.has_ignored else thumbnail.label
    padded = np.pad(label, 1, mode="edge")
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.logical_or.reduce([side != label for side in sides])
    table = np.zeros((256, 3), np.uint8)
    for value, colour in enumerate(colours, start=1):
        table[value] = tuple(bytes.fromhex(colour[1:]))
    opacity = np.where(label > 0, np.where(border, _OUTLINE, _FILL), 0).astype(np.uint8)
    data = BytesIO()
    Image.fromarray(np.dstack([table[label], opacity])).save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"


def _colour(number: int) -> str:
    if number < len(_COLOURS):
        return _COLOURS[number]
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1, 0.65, 0.9)  # the golden ratio never comes near where it was
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f8; --surface: #ffffff; --text: #1f2933; --muted: #52606d; --line: #dde3e9; --accent: #005a8f;
  --warn: #9a3d00; --bad: #a8201a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101418; --surface: #181d23; --text: #e6ebf0; --muted: #a3b0bd; --line: #36404a; --accent: #6cbcf0;
    --warn: #f5a35c; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { background: var(--surface); border-bottom: 1px solid var(--line); }
h1, main { max-width: 1400px; margin: 0 auto; padding: 18px 24px; }
h1 { font-size: 24px; line-height: 1.25; letter-spacing: -0.01em; }
h1 span, h2 span { font-weight: 400; color: var(--muted); }
h2 { margin: 0 0 10px; font-size: 17px; }
section { margin: 0 0 20px; min-width: 0; }
.panel { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.panel.bad { border-left: 4px solid var(--bad); } .panel.bad h2 { color: var(--bad); }
.panel.note { border-left: 4px solid var(--accent); }
.panel.warn { border-left: 4px solid var(--warn); } .panel.warn h2 { color: var(--warn); }
.panel ul { margin: 0; padding-left: 20px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 0 20px; }
.muted { margin: 10px 0; color: var(--muted); font-size: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); }
.facts th { width: 14em; color: var(--muted); font-weight: 600; }
.num { text-align: right; padding: 6px 20px 6px 0; white-space: nowrap; }
.num:first-child { width: 1%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0 16px; padding: 0; list-style: none; }
.swatch { display: inline-block; width: 14px; height: 14px; margin-right: 8px; border: 2px solid var(--colour); border-radius: 3px;
  background: color-mix(in srgb, var(--colour) 25%, #555); vertical-align: -2px; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 16px; align-items: start; }
figure { margin: 0; background: var(--surface); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.frame { position: relative; display: grid; background: #000; }
.frame img { grid-area: 1 / 1; width: 100%; height: 100%; aspect-ratio: 1; object-fit: contain; }
figcaption { padding: 8px 12px 10px; color: var(--muted); font-size: 13px; }
figcaption b { display: block; color: var(--text); font-size: 14px; }
.empty { color: var(--warn); }
input { accent-color: var(--accent); margin-right: 8px; }
#plain:checked ~ .cases .mask, .frame:hover .mask { visibility: hidden; }
@media print { body { background: #fff; } figure, .panel { break-inside: avoid; } }
"""
