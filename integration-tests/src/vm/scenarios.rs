//! What is to be shown of the boot chain. Each scenario begins where the one before ended: with a
//! healthy machine that runs what it booted.

use std::time::{Duration, Instant};

use common::error_chain::Chain;
use serde::Serialize;
use serde_json::json;

use super::{
    Bed, VmError,
    bed::{Executed, TRIES, text},
    error::must,
};
use crate::fleet::{Failure, SystemSpec};

/// Longest until a boot that went well is marked so in the name of its entry.
const BLESSED_MAX: Duration = Duration::from_secs(120);

/// Longest until a target that does not boot has been booted.
const BOOT_MAX: Duration = Duration::from_secs(300);

/// One thing to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    play: fn(&Bed) -> Result<(), VmError>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Whether it did.
    pub holds: bool,
    /// How long it took.
    pub seconds: f64,
    /// How often the firmware started the boot loader.
    pub boots: usize,
    /// How often a kernel panicked.
    pub panics: usize,
    /// What was otherwise; empty when it holds.
    pub wrong: String,
}

/// All of them, in the order in which they are played.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "first-boot",
        shows: "the boot loader starts the system, its entry is marked good, and the agent reports",
        play: first_boot,
    },
    Scenario {
        name: "good-target",
        shows: "an update to another kernel is booted and confirmed",
        play: good_target,
    },
    Scenario {
        name: "self-test",
        shows: "the agent's self-test says that boot counting can be relied on",
        play: self_test,
    },
    Scenario {
        name: "panicking-target",
        shows: "a target whose kernel panics is left by the boot loader, and is reported as rolled back",
        play: panicking_target,
    },
    Scenario {
        name: "power-cut",
        shows: "so it is when the power is cut between two of the boots that fail: tries are on disk",
        play: power_cut,
    },
    Scenario {
        name: "good-target-after-it",
        shows: "the next good target is booted and confirmed",
        play: good_target,
    },
    Scenario {
        name: "one-shot-panic",
        shows: "where boots are not counted, a target whose kernel panics is started once, and left",
        play: one_shot_panic,
    },
    Scenario {
        name: "one-shot-good",
        shows: "so is a good one, and once it is confirmed every boot starts it",
        play: one_shot_good,
    },
    Scenario {
        name: "recorded-boot-default",
        shows: "after a boot into a target that is not healthy, the machine boots what the boot loader \
                would have started, not what the profile named",
        play: recorded_boot_default,
    },
    Scenario {
        name: "chosen-by-hand",
        shows: "where the boot loader starts something else whatever is installed, nothing is rebooted",
        play: chosen_by_hand,
    },
];

impl Scenario {
    /// Plays it.
    pub fn play(&self, bed: &Bed) -> Outcome {
        let since = Instant::now();
        let (boots, panics) = (bed.vm.boots(), bed.vm.panics());
        let played = bed.await_settled().and_then(|()| (self.play)(bed));
        Outcome {
            name: self.name,
            shows: self.shows,
            holds: played.is_ok(),
            seconds: since.elapsed().as_secs_f64(),
            boots: bed.vm.boots() - boots,
            panics: bed.vm.panics() - panics,
            wrong: played.map_or_else(|error| Chain(&error).to_string(), |()| String::new()),
        }
    }
}

fn first_boot(bed: &Bed) -> Result<(), VmError> {
    is_settled(bed, &bed.link("/run/current-system")?)
}

fn self_test(bed: &Bed) -> Result<(), VmError> {
    says(bed, "boot counting: can be relied on", 0)
}

/// What the agent's self-test says, and how it ends.
fn says(bed: &Bed, line: &str, status: i32) -> Result<(), VmError> {
    let said = bed.self_test()?;
    let ends = format!("exit status {status}");
    must(
        said.contains(line) && said.trim_end().ends_with(&ends),
        || format!("not {line:?}, {ends}: {said}"),
    )
}

fn good_target(bed: &Bed) -> Result<(), VmError> {
    let path = bed.prepare(bed.with_own_kernel())?;
    let boots = bed.vm.boots();
    ended(&bed.execute()?, 0, "confirmed")?;
    booted(bed, boots, 1)?;
    is_settled(bed, path.as_str())
}

fn panicking_target(bed: &Bed) -> Result<(), VmError> {
    let before = bed.link("/run/current-system")?;
    bed.prepare(bed.with_own_kernel().failing(Failure::Panic))?;
    let (boots, panics) = (bed.vm.boots(), bed.vm.panics());
    ended(&bed.execute()?, 9, "rolled-back")?;
    let panicked = bed.vm.panics() - panics;
    must(panicked == TRIES as usize, || {
        format!("{panicked} kernels panicked, of {TRIES} tries")
    })?;
    booted(bed, boots, panicked + 1)?;
    is_back(bed, &before)
}

fn power_cut(bed: &Bed) -> Result<(), VmError> {
    let before = bed.link("/run/current-system")?;
    bed.prepare(bed.with_own_kernel().failing(Failure::Panic))?;
    let panics = bed.vm.panics();
    bed.begin()?;
    bed.vm
        .eventually("a kernel panics", BOOT_MAX, || Ok(bed.vm.panics() > panics))?;
    bed.vm.power_off()?;
    bed.vm.power_on(&bed.fleet)?;
    let verdict = bed.await_verdict()?;
    must(verdict == "rolled-back", || {
        format!("{verdict}, not rolled-back")
    })?;
    let panicked = bed.vm.panics() - panics;
    must(panicked == TRIES as usize, || {
        format!("{panicked} kernels panicked, of {TRIES} tries")
    })?;
    is_back(bed, &before)
}

fn one_shot_panic(bed: &Bed) -> Result<(), VmError> {
    let before = bed.link("/run/current-system")?;
    let target = bed.with_own_kernel().failing(Failure::Panic);
    bed.prepare(SystemSpec {
        boot_tries: 0,
        ..target
    })?;
    let (boots, panics) = (bed.vm.boots(), bed.vm.panics());
    ended(&bed.execute()?, 9, "rolled-back")?;
    let panicked = bed.vm.panics() - panics;
    must(panicked == 1, || {
        format!("{panicked} kernels panicked, not 1")
    })?;
    booted(bed, boots, 2)?;
    nothing_chosen(bed)?;
    is_back(bed, &before)
}

fn one_shot_good(bed: &Bed) -> Result<(), VmError> {
    let target = bed.with_own_kernel();
    let path = bed.prepare(SystemSpec {
        boot_tries: 0,
        ..target
    })?;
    let boots = bed.vm.boots();
    ended(&bed.execute()?, 0, "confirmed")?;
    booted(bed, boots, 1)?;
    nothing_chosen(bed)?;
    is_settled(bed, path.as_str())?;
    bed.vm.power_off()?;
    bed.vm.power_on(&bed.fleet)?;
    bed.vm.await_up(&bed.fleet)?;
    is_settled(bed, path.as_str())
}

/// The boot loader's variables are as if nobody had ever touched them.
fn nothing_chosen(bed: &Bed) -> Result<(), VmError> {
    let list = "ls /sys/firmware/efi/efivars | grep -E '^LoaderEntry(Default|OneShot)-' || true";
    let left = bed.vm.run(&bed.fleet, list)?;
    must(left.trim().is_empty(), || format!("still set: {left}"))
}

/// The profile was set, as `nix-env --set` does it, and no boot loader installed: the next boot would
/// not have started what it names.
fn recorded_boot_default(bed: &Bed) -> Result<(), VmError> {
    let before = bed.link("/run/current-system")?;
    let never_installed = bed.fleet.publish(&[bed.system()])?.remove(0);
    let set = format!(
        "nix-store --realise {never_installed} && \
         nix-env -p /nix/var/nix/profiles/system --set {never_installed}"
    );
    bed.vm.run(&bed.fleet, &set)?;
    starts(bed, &before)?;
    bed.prepare(bed.with_own_kernel().failing(Failure::Health))?;
    let boots = bed.vm.boots();
    ended(&bed.execute()?, 9, "rolled-back")?;
    booted(bed, boots, 2)?;
    is_back(bed, &before)
}

/// Somebody chose a default in the boot menu, or by `bootctl`, which is the same variable of the
/// firmware.
fn chosen_by_hand(bed: &Bed) -> Result<(), VmError> {
    let before = bed.link("/run/current-system")?;
    let entry = bed.default_entry()?;
    let id = text(&entry["id"]);
    bed.vm
        .run(&bed.fleet, &format!("bootctl set-default {id}"))?;
    says(bed, "was chosen by hand", 1)?;
    bed.prepare(bed.with_own_kernel())?;
    let boots = bed.vm.boots();
    let executed = bed.execute()?;
    must(
        executed.status != 0 && executed.verdict != "confirmed",
        || format!("the target was confirmed: {executed}"),
    )?;
    booted(bed, boots, 0)?;
    bed.vm.run(&bed.fleet, "bootctl set-default ''")?;
    is_back(bed, &before)
}

/// What the coordinator says of an update.
fn ended(executed: &Executed, status: i32, verdict: &str) -> Result<(), VmError> {
    must(
        executed.status == status && executed.verdict == verdict,
        || format!("not {status}, {verdict}: {executed}"),
    )
}

/// How often the machine was booted since.
fn booted(bed: &Bed, since: usize, expected: usize) -> Result<(), VmError> {
    let boots = bed.vm.boots() - since;
    must(boots == expected, || {
        format!("{boots} boots, not {expected}")
    })
}

/// The machine runs this system, has booted it, and boots it next, by the profile and by the boot
/// loader.
fn is_back(bed: &Bed, system: &str) -> Result<(), VmError> {
    for link in [
        "/run/current-system",
        "/run/booted-system",
        "/nix/var/nix/profiles/system",
    ] {
        let found = bed.link(link)?;
        must(found == system, || {
            format!("{link} is {found}, not {system}")
        })?;
    }
    starts(bed, system)
}

/// The boot loader starts this system next.
fn starts(bed: &Bed, system: &str) -> Result<(), VmError> {
    let entry = bed.default_entry()?;
    let init = format!("init={system}/init");
    let options = text(&entry["options"]);
    must(options.split(' ').any(|word| word == init), || {
        format!("the default entry does not say {init}: {entry}")
    })
}

/// The same, and the boot is marked as good.
fn is_settled(bed: &Bed, system: &str) -> Result<(), VmError> {
    is_back(bed, system)?;
    bed.vm
        .eventually("the boot entry is marked good", BLESSED_MAX, || {
            Ok(bed.default_entry()?["triesLeft"] == json!(null))
        })
}
