"""`status`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def status(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Show what this helper agreed to, its sites with their words, and which rounds it answered.

    Example: fedhelp-helper status
    """
    from fedhelp_edge.helper import home as homes
    from fedhelp_edge.parcel import keys
    from fedhelp_edge.parcel.keys import PublicKeys
    from fedhelp_edge.site import verified
    from fedhelp_edge.trust import key_words

    home_dir = shell.home_folder(home)
    public, pins = keys.load_public(home_dir), homes.load_pins(home_dir)
    trusted = verified.state(home_dir)
    listed = trusted.roster.sites if trusted and trusted.roster else ()
    sites = [
        {
            "id": site.id, "name": site.name, "status": site.status,
            "words": " ".join(key_words.of_keys(pins.federation, PublicKeys(site.sign, site.recipient))),
        }
        for site in listed
    ]  # fmt: skip
    answered = homes.answered_sets(home_dir)
    if json:
        return console.print_json(
            federation=pins.federation, name=pins.plan.name, fewest=pins.fewest, helper_key=public.recipient,
            helper_sign=public.sign, sites=sites,
            answered=[{"round": each.round, "sites": list(each.sites)} for each in answered],
        )  # fmt: skip
    console.show(f"{pins.plan.name}: {pins.federation}", f"at least {pins.fewest} sites in a set")
    for site in sites:
        console.show(f"{site['id']}  {site['name']}, {site['status']}: {site['words']}")
    for each in answered:
        console.show(f"round {each.round} answered: {', '.join(each.sites)}")
    console.say("Phone the sites and compare their words: nothing else tells you that they are different clinics.")
    return None
