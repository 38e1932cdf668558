"""The page of a restructured model: what it costs beside the baselines, its blocks, the front, each worker's load."""

from __future__ import annotations

from html import escape

from fedmac.report.page import document, figure_section
from fedmac.report.plot import figure_part
from fedmac.report.repurpose_figures import block_views, front_views, load_figure
from fedmac.repurposing.study import Entry, Study, model_accuracy

HEADINGS = (
    "accuracy",
    "test",
    "activations sent",
    "bytes",
    "multiply-adds, most of a worker",
    "mean of the workers",
    "latency (ms)",
    "energy (J)",
)


def repurpose_page(found: Study) -> str:
    """The report as one HTML document that needs no other file and makes no request."""
    plan = found.picked.plan
    facts = f"{found.trained.source} · {plan.workers} workers · {len(found.calibration.inputs):,} calibration inputs"
    sections = [_verdict(found), _front(found), _blocks(found), _load(found), _layers(found)]
    return document("A model on several devices", facts, [], sections)


def _verdict(found: Study) -> str:
    picked, whole = found.picked, found.baselines[0]
    drop = 100 * (whole.judged - picked.judged)
    sentence = (
        f"For one input the workers send {picked.accounts.sends:,} activations instead of {whole.accounts.sends:,}; "
        f"accuracy changes by {-drop:+.2f} points."
    )
    rows = "".join(_row(entry) for entry in (picked, *found.baselines))
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in HEADINGS)
    return (
        f"<section><h2>Verdict</h2><p>{escape(sentence)}</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Comparison"><table class="verdict">'
        f'<thead><tr><th scope="col">plan</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        "<p>naive: units in their order, every activation that is needed is sent; direct: weights between workers are "
        "dropped; sparse: as many weights as the plan keeps, the largest. Latency and energy are estimates for the "
        "workers and links given. Bytes include the outputs, gathered at worker 0.</p></section>"
    )


def _row(entry: Entry) -> str:
    work = entry.accounts.multiply_adds
    cells = [
        f"{entry.judged:.4f}",
        "-" if entry.test is None else f"{entry.test:.4f}",
        f"{entry.accounts.sends:,}",
        f"{entry.accounts.bytes:,}",
        f"{int(work.max()):,}",
        f"{float(work.mean()):,.0f}",
        f"{1e3 * entry.latency:.3g}",
        f"{entry.energy:.3g}" if entry.energy else "-",
    ]
    return f'<tr><th scope="row">{escape(entry.name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _front(found: Study) -> str:
    if len(found.points) < 2:
        return ""
    picked = next(point for point in found.points if point.plan is found.picked.plan)
    return figure_section(
        "front",
        "What accuracy costs",
        "Each point is a plan at another communication cost; the line joins those that no other beats in sends, "
        "accuracy and latency at once. The ring is the plan that was picked. Up and left is better.",
        front_views(found.points, picked, model_accuracy(found)),
    )


def _blocks(found: Study) -> str:
    plan, parts = found.picked.plan, []
    for number, step in enumerate(plan.network.layers):
        if (plan.owner_before(step) < 0).any():
            continue
        name = f"blocks-{number}"
        views = block_views(found.calibration, plan, step)
        parts.append(
            figure_part(name, step.name, "Size of the weights, bright is large; lines part the workers.", views)
        )
    return f"<section><h2>Weights, before and after</h2>{''.join(parts)}</section>" if parts else ""


def _load(found: Study) -> str:
    return figure_section(
        "load",
        "Each worker's load",
        "Multiply-adds for one input on the weights that are kept.",
        {"load": load_figure(found.picked.accounts)},
    )


def _layers(found: Study) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(layer.name)}</th><td>{layer.sends:,}</td><td>{layer.most_sends:,}</td>'
        f"<td>{int(layer.bytes_between.sum()):,}</td><td>{found.picked.plan.layers[layer.name].error:.3g}</td></tr>"
        for layer in found.picked.accounts.layers
    )
    heads = "".join(
        f'<th scope="col">{heading}</th>' for heading in ("layer", "sent", "of at most", "bytes", "half squared error")
    )
    return (
        '<section><h2>Layers</h2><div class="scroll" tabindex="0" role="region" aria-label="Layers">'
        f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )
