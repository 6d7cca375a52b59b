"""Make the dashboard of a project in Weights & Biases: a view of all runs, and with --sweep a report of one sweep.

    pip install wandb-workspaces
    python scripts/wandb_workspace.py --entity TEAM --project llmrl
    python scripts/wandb_workspace.py --entity TEAM --project llmrl --sweep sweep_2026-11-25_10-00-00_ab12
    python scripts/wandb_workspace.py --entity TEAM --show        # print what would be made, send nothing

The view has sections for reward, KL, the update, samples and speed; its run table shows the settings people sort by. Run it
again to have another: nothing of a person's own views is changed.
"""

import argparse
import json
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

STEP = "train/global_step"
CLOCKS = ("time/rollout_s", "time/reward_s", "time/experience_s", "time/update_s")
COLUMNS = [
    "run:displayName", "run:state", "run:group", "run:tags", "summary:eval/final/trained_reward",
    "summary:eval/final/difference", "summary:eval/final/low", "summary:eval/final/high", "summary:eval/final/verdict",
    "summary:eval/final/kl", "summary:eval/best/reward", "config:model.name_or_path", "config:trainer.name",
    "config:ppo.lr", "config:ppo.kl_coef", "config:seed",
]  # fmt: skip
"""Of the run table, pinned in this order."""


def line(title: str, *metrics: str, **more: Any) -> wr.LinePlot:
    """Metrics by training step; runs that are grouped are a mean and a band from the lowest to the highest."""
    return wr.LinePlot(title=title, x=STEP, y=list(metrics), groupby_aggfunc="mean", groupby_rangefunc="minmax", **more)


def frontier() -> wr.ScatterPlot:
    """What reward a KL bought, a point a run."""
    return wr.ScatterPlot(
        title="Held-out reward against KL", x=wr.SummaryMetric("eval/final/kl"), y=wr.SummaryMetric("eval/final/trained_reward")
    )


def sections(rewards: list[str]) -> list[ws.Section]:
    """The panels of the project view. `rewards` are names whose components get a plot of their own."""
    components = [line(f"reward {name}", f"rewards/{name}/mean", f"eval/{name}") for name in rewards]
    return [
        ws.Section(
            name="Reward", is_open=True,
            panels=[line("reward of the batch", "objective/scores"), line("held-out reward", "eval/reward"), frontier(),
                    *components, line("deviation of rewards in a batch", "objective/scores_std")],
        ),
        ws.Section(
            name="KL and text", is_open=True,
            panels=[line("KL to the base", "objective/kl", "eval/kl"), line("KL coefficient", "objective/kl_coef"),
                    line("perplexity under the base", "objective/ref_perplexity", log_y=True),
                    line("length", "response/length"),
                    line("ended by themselves", "response/finished"), line("entropy", "policy/entropy")],
        ),
        ws.Section(
            name="Update",
            panels=[line("approximate KL of the update", "policy/approxkl"), line("share clipped", "policy/clipfrac"),
                    line("explained variance", "val/var_explained"), line("gradient norm", "policy/grad_norm"),
                    line("learning rate", "lr"), line("updates left out", "policy/skipped_updates")],
        ),
        ws.Section(
            name="Samples and histograms",
            panels=[wr.WeavePanelSummaryTable(table_name="samples"),
                    wr.MediaBrowser(media_keys=["histograms/reward", "histograms/response/length", "histograms/policy/ratio"])],
        ),
        ws.Section(
            name="Speed",
            panels=[line("tokens/s", "tokens/s"), line("seconds of a step", *CLOCKS)],
        ),
    ]  # fmt: skip


def project_view(entity: str, project: str, rewards: list[str]) -> ws.Workspace:
    """The view of all runs of a project, grouped by sweep."""
    return ws.Workspace(
        entity=entity, project=project, name="llmrl", sections=sections(rewards), settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(
            pinned_columns=COLUMNS, order=[ws.Ordering(ws.Summary("eval/final/trained_reward"), ascending=False)],
            groupby=[ws.Metric("Group")],
        ),
    )  # fmt: skip


def sweep_report(entity: str, project: str, sweep: str, varied: list[str]) -> wr.Report:
    """A report of the runs of one sweep: ranking, frontier, curves, which settings matter."""
    runs = wr.Runset(
        entity=entity, project=project, name=sweep, filters=f"Group == '{sweep}'", pinned_columns=COLUMNS,
        order=[wr.OrderBy(wr.SummaryMetric("eval/final/trained_reward"), ascending=False)],
    )  # fmt: skip
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in varied]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"eval/final/{name}")) for name in ("kl", "trained_reward")]
    panels = [
        frontier(), wr.ParallelCoordinatesPlot(columns=columns), line("reward of the batch", "objective/scores"),
        line("held-out reward", "eval/reward"), line("KL to the base", "objective/kl"),
        wr.ParameterImportancePlot(with_respect_to="eval/final/trained_reward"), wr.RunComparer(diff_only="split"),
    ]  # fmt: skip
    about = (
        "Runs are ranked by their reward on held-out prompts. A run says 'improved' where the 95 % interval of its difference "
        "to the base is above zero. The best of many was chosen by these figures: try it with new seeds."
    )
    return wr.Report(
        entity=entity, project=project, title=f"Sweep {sweep}", description="Made by scripts/wandb_workspace.py",
        blocks=[wr.TableOfContents(), wr.P(about), wr.H1("Runs"), wr.PanelGrid(runsets=[runs], panels=panels)], width="fluid",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="Weights & Biases team or user")
    parser.add_argument("--project", default="llmrl")
    parser.add_argument("--sweep", help="name of a sweep folder, which is the group of its runs")
    parser.add_argument("--rewards", nargs="*", default=["no_repeat", "end_of_sentence"], help="components to plot")
    parser.add_argument("--varied", nargs="*", default=["ppo.lr", "ppo.kl_coef", "seed"], help="settings of the sweep")
    parser.add_argument("--show", action="store_true", help="print what would be made, as JSON, and send nothing")
    args = parser.parse_args()
    view = project_view(args.entity, args.project, args.rewards)
    report = sweep_report(args.entity, args.project, args.sweep, args.varied) if args.sweep else None
    if args.show:
        made = [view._to_model().model_dump(mode="json"), *([report._to_model().model_dump(mode="json")] if report else [])]
        print(json.dumps(made, indent=1, default=str))
        return
    print(view.save().url)
    if report is not None:
        print(report.save().url)


if __name__ == "__main__":
    main()
