//! What people type parses to what they mean; the document's own lines first.

use clap::{CommandFactory as _, Parser as _};

use super::{Command, Format, Lab, Level, machines, update::Update};

/// Splits as a shell would, for lines with simple quotes.
fn words(line: &str) -> Vec<String> {
    let pieces = line.split('\'').enumerate();
    let mut words = vec![String::new()];
    for (number, piece) in pieces {
        if number % 2 == 1 {
            words.last_mut().expect("one word").push_str(piece);
            continue;
        }
        for c in piece.chars() {
            if c.is_whitespace() {
                words.push(String::new());
            } else {
                words.last_mut().expect("one word").push(c);
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse(line: &str) -> Lab {
    Lab::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}\n{error}"))
}

fn refused(line: &str) -> String {
    let error = Lab::try_parse_from(words(line)).err();
    let error = error.unwrap_or_else(|| panic!("{line} was accepted"));
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

#[test]
fn declarations_are_consistent() {
    Lab::command().debug_assert();
}

#[test]
fn the_documents_lines_are_understood() {
    for line in [
        "lab update prepare --group=dev",
        "lab update execute --group=dev --wait-for-completion",
        "lab update verify --group=dev",
        "lab update prepare --group=infrastructure",
        "lab health-check --group=critical",
        "lab update execute --group=management --parallel=3",
        "lab update rollback --group=dev",
        "lab notify --level=error --message='Update failed for dev, rolled back'",
        "lab notify --level=info --message='Staggered update completed successfully'",
        "lab update prepare --machine=web-01",
        "lab update execute --group=dev --parallel=2 --dry-run",
        "lab update rollback --group=dev --to-generation=150",
        "lab update status --group=dev",
        "lab update status",
        "lab health-check --group=dev --timeout=300",
        "lab update-history --group=dev --days=7",
        "lab notify --level=warning --message=hello --channel=discord",
        "lab update-config show --group=dev",
        "lab update-config set --group=dev --key=allowReboot --value=true",
        "lab update rollback --group=critical --immediate",
        "lab update rollback --machine=db-primary,web-01",
    ] {
        parse(line);
    }
}

#[test]
fn every_other_command_is_understood() {
    for line in [
        "lab update plan --kind=rollback --machine=a,b",
        "lab update prepare --closure=a=/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-s --detach",
        "lab update prepare --targets=t.json --timeout=2h",
        "lab update prepare --flake=. --sign-key=k --push-to=file:///c",
        "lab update prepare --flake=. --build-on-machine",
        "lab update prepare --channel=https://channels.example.org/nixos",
        "lab update execute --detach --reason=because --yes",
        "lab update execute --if-plan=6f1c --timeout=90",
        "lab update execute --machine=web-01 --retry-failed",
        "lab update approve --group=critical --comment=seen",
        "lab update approve r-0012",
        "lab update reject r-0012 --reason=no",
        "lab update promote r-0012 --group=web --full --reason=good",
        "lab update pause",
        "lab update resume r-0012 --reason='fixed'",
        "lab update abort r-0012 -y",
        "lab update watch r-0012 --output json",
        "lab -o json update watch",
        "lab update-config unset --key=source.flake",
        "lab update-config unset --machine=a --key=retries",
        "lab update-config set --policy=lax --key=canary --value=0",
        "lab update-config show --machine=a --revision=2",
        "lab update-config set --key=maxParallel --value=-1",
        "lab update-config import update-config.nix --reason=new",
        "lab update-config check update-config.nix",
        "lab update-config diff update-config.json",
        "lab update-config log --limit=3",
        "lab machines",
        "lab machines --group=dev --output json",
        "lab machines list --machine=a",
        "lab machines -o json list",
        "lab audit -o json verify",
        "lab machines show web-01 -o json",
        "lab machines forget web-01 --reason=gone",
        "lab machines reboot web-01 web-02 --yes --detach",
        "lab machines reboot --group=critical",
        "lab why web-01",
        "lab emergency-stop --group=dev,critical --mode=rollback --reason='bad release'",
        "lab resume --reason='withdrawn'",
        "lab token create --machine=web-01",
        "lab token create --operator=geir --role=admin --valid-for=1d",
        "lab token list",
        "lab token revoke t-1",
        "lab identity list",
        "lab identity approve web-01 --yes",
        "lab identity approve web-01 --reason=known",
        "lab identity revoke web-01 --reason=stolen",
        "lab identity revoke --serial=3fa2 --reason=stolen",
        "lab identity enrol --token-file=- --identity=/tmp/me.pem --coordinator=ctl",
        "lab audit --days=3 --output=json",
        "lab audit verify -o json",
        "lab completions zsh",
        "lab man --directory=man1",
        "lab help exit-codes",
        "lab help update execute",
    ] {
        parse(line);
    }
}

#[test]
fn lists_and_globals_arrive() {
    let lab =
        parse("lab update rollback --machine=db-primary,web-01 --group=a --group=b -o json -y");
    assert_eq!(lab.global.output, Format::Json);
    assert!(lab.global.yes);
    let Command::Update(Update::Rollback(rollback)) = lab.command else {
        panic!("{:?}", lab.command);
    };
    let selection = rollback.select.selection();
    assert_eq!(selection.machines, ["db-primary", "web-01"]);
    assert_eq!(selection.groups, ["a", "b"]);

    let Command::Notify(notify) = parse("lab notify --message=x").command else {
        panic!("another command");
    };
    assert_eq!((notify.level, notify.channel.as_str()), (Level::Info, ""));
    let Command::Machines(machines) = parse("lab machines reboot web-01").command else {
        panic!("another command");
    };
    assert!(matches!(machines.verb, Some(machines::Verb::Reboot(_))));
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    for (line, said) in [
        ("lab updat status", "similar"),
        ("lab update execut", "similar"),
        ("lab update status --output yaml2", "possible values"),
        (
            "lab update prepare --machine=../../etc",
            "not allowed in a name",
        ),
        ("lab update prepare --machine=Web", "not allowed in a name"),
        ("lab update prepare --machine=", "the name is empty"),
        ("lab why -- -rf", "not allowed in a name"),
        ("lab update execute --parallel=0", "1.."),
        ("lab update execute --parallel=-1", ""),
        ("lab update rollback --to-generation=0", "1.."),
        (
            "lab update execute --detach --wait-for-completion",
            "cannot be used with",
        ),
        ("lab update execute --timeout=5x", "length of time"),
        (
            "lab update prepare --flake=. --channel=x",
            "cannot be used with",
        ),
        ("lab update prepare --sign-key=k", "--flake"),
        ("lab update prepare --closure=web-01", "MACHINE="),
        ("lab emergency-stop", "--reason"),
        ("lab resume", "--reason"),
        ("lab token create", "--machine"),
        ("lab token create --operator=geir", "--role"),
        (
            "lab token create --machine=a --operator=b --role=admin",
            "cannot be used with",
        ),
        (
            "lab update-config set --group=dev --machine=a --key=retries --value=1",
            "cannot be used with",
        ),
        (
            "lab update-config show --machine=a --policy=lax",
            "cannot be used with",
        ),
        ("lab identity approve", "NAME"),
        ("lab identity revoke --reason=x", "NAME"),
        ("lab update-history --days=0", "1..=3660"),
    ] {
        let text = refused(line);
        assert!(text.contains(said), "{line}: {text}");
    }
}
