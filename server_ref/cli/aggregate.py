"""`aggregate`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted

if TYPE_CHECKING:
    from fedhelp_edge.plan import Plan

app = shell.app()


@app.command()
def aggregate(
    now: Annotated[
        bool, typer.Option("--now", help="Close the round before its deadline, if the quorum is met.")
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Close the open round, merge its updates and publish the new model.

    Example: fedhelp-coordinator aggregate
    """
    from server_ref.admin import decisions, session
    from server_ref.admin import status as admin_status
    from server_ref.intake import partial_uploads
    from server_ref.rounds import close
    from server_ref.rounds import lifecycle as rounds_state

    with session.unlocked_hub(home, passphrase_file, precheck=rounds_state.unmerged_round) as (hub, coordinator_keys):
        now = now or decisions.is_decided(hub, decisions.round_choice(hub))
        outcome = close.aggregate(hub, coordinator_keys, now=now, in_transit=partial_uploads.awaited_senders(hub))
        finished, plan = rounds_state.is_finished(hub), hub.plan
    if json:
        return console.print_json(**outcome)
    merged = counted(len(outcome["accepted"]), "update")
    if outcome["held"]:
        console.show(*console.error_lines(f"round {outcome['round']}: the sum of {merged} is held ", outcome["held"]))
        console.say_next("'fedhelp-coordinator review'")
        return None
    if outcome["waiting"]:
        console.show(f"round {outcome['round']}: {merged} in the set; waiting for the helper")
        console.say_next("'fedhelp-coordinator exchange DIR'; then the helper runs 'fedhelp-helper sum DIR'")
        return None
    console.show(f"round {outcome['round']}: {merged} merged", f"model {outcome['merged_sha256']}")
    show_counts(outcome, plan)
    for state in ("quarantined", "refused"):
        for entry in outcome[state]:
            console.show(*console.error_lines(f"  {entry['site']} {state}: ", entry))
    if outcome["best_round"]:
        console.show(f"the best is {admin_status.best_round_text(outcome['best_round'])}")
    if finished:
        console.say_next("'fedhelp-coordinator status': all rounds are done")
    else:
        console.say_next("'fedhelp-coordinator open'")
    console.say(
        hints.with_caller_options(
            "'fedhelp-coordinator exchange DIR' or 'fedhelp-coordinator serve' gives the model to the sites"
        )
    )
    return None


def show_counts(outcome: Mapping[str, Any], plan: "Plan") -> None:
    """Show what each site counts, or all together in a secure sum. Where noise hides images, they send no counts."""
    if plan.privacy.has_budget:
        console.show("  sites send no numbers of images: noise hides these")
        return
    for entry in outcome["claims"]:
        part = "" if entry["part"] is None else f", {entry['part']:.1%} of the model"
        accuracy = f"{entry['correct']} of {entry['val']} right with the model before"
        if plan.has_masks:
            dice = f"{entry['correct'] / entry['val']:.3f}" if entry["val"] else "unknown"
            accuracy = f"Dice {dice} with the model before"
        claimed = counted(entry["examples"], "image")
        console.show(f"  {entry['site']} claims {claimed}{part}; {accuracy}")
    if sums := outcome["sum"]:
        accuracy = f"{sums['correct']} of {sums['val']} right with the model before"
        console.show(f"  the sites together claim {counted(sums['examples'], 'image')}; {accuracy}")
