//! What is done to a machine that is held in a step, and how it is undone.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use super::{
    case::{At, Case, Fault},
    points::{Grip, Points},
};
use crate::fleet::{AGENT_UNIT, FleetError, PID_1};

/// The agent's unit with a clock that can be set: libfaketime, told by a file, of the wall clock alone.
const CLOCK: &str = "\
[Service]
Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1
Environment=FAKETIME_TIMESTAMP_FILE=/srv/witness/clock
Environment=FAKETIME_NO_CACHE=1
Environment=FAKETIME_DONT_FAKE_MONOTONIC=1
";

/// Where that lies, gone with the next boot.
const CLOCK_DIR: &str = "/run/systemd/system/lab-updater.service.d";

/// Between a fault and what it is to meet.
const MOMENT: Duration = Duration::from_secs(2);

/// How long faults last.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// A network or a coordinator that is gone; longer than a lease.
    pub outage: Duration,
    /// An agent that is stopped.
    pub pause: Duration,
    /// A full disk.
    pub full: Duration,
    /// A clock that is wrong.
    pub clock: Duration,
    /// A step that does not end.
    pub hang: Duration,
}

impl Lengths {
    /// Those of the whole matrix.
    pub const WHOLE: Self = Self {
        outage: Duration::from_secs(45),
        pause: Duration::from_secs(120),
        full: Duration::from_secs(20),
        clock: Duration::from_secs(15),
        hang: Duration::from_secs(125),
    };

    /// Short ones: for a sample that is to be quick. A pause still outlasts the lease.
    pub const SHORT: Self = Self {
        pause: Duration::from_secs(40),
        hang: Duration::from_secs(45),
        ..Self::WHOLE
    };
}

impl Points<'_> {
    /// Before the case: an agent whose clock can be set, where it will be.
    pub(super) fn make_clock(&self, case: &Case) -> Result<(), FleetError> {
        if !matches!(case.fault, Fault::ClockAhead | Fault::ClockBack) {
            return Ok(());
        }
        let script = format!(
            "mkdir -p {CLOCK_DIR} && printf '%s' '{CLOCK}' >{CLOCK_DIR}/clock.conf &&
             systemctl daemon-reload && systemctl restart {AGENT_UNIT}"
        );
        self.run(&["sh", "-ec", &script])
    }

    /// The fault, to its end. The machine is held when it begins, and is let go when it is time;
    /// while it lasts, `look` is called once.
    pub(super) fn strike(
        &self,
        case: &Case,
        grip: &Grip,
        lengths: &Lengths,
        look: &mut dyn FnMut() -> Result<(), FleetError>,
    ) -> Result<(), FleetError> {
        let (fleet, machine) = (self.fleet, self.machine);
        let signal = |signal| fleet.signal(machine, AGENT_UNIT, signal);
        match case.fault {
            Fault::Kill => {
                signal(Signal::SIGKILL);
                thread::sleep(MOMENT);
                self.let_go(grip)
            }
            Fault::Pause => {
                signal(Signal::SIGSTOP);
                self.release()?;
                thread::sleep(lengths.pause);
                look()?;
                signal(Signal::SIGCONT);
                Ok(())
            }
            Fault::PowerCut => {
                fleet.power_cut(machine)?;
                self.release()?;
                look()?;
                fleet.power_on(machine)
            }
            Fault::Bus => {
                // It may be on its way down.
                fleet.exec(machine, &["systemctl", "restart", "dbus.service"])?;
                self.let_go(grip)
            }
            Fault::StoreFull => self.while_full("/", grip, lengths, look),
            Fault::BootFull => self.while_full("/boot", grip, lengths, look),
            Fault::Network => {
                fleet.partition(machine)?;
                self.let_go(grip)?;
                thread::sleep(lengths.outage);
                look()?;
                fleet.plug_in(machine)
            }
            Fault::Coordinator => {
                fleet.refuse_calls(machine, true)?;
                self.let_go(grip)?;
                thread::sleep(lengths.outage);
                look()?;
                fleet.refuse_calls(machine, false)
            }
            Fault::ClockAhead => self.with_clock(1, grip, lengths, look),
            Fault::ClockBack => self.with_clock(-1, grip, lengths, look),
            Fault::Error => self.fail_step(case.situation.at, grip),
            Fault::Hang => self.hang_step(case.situation.at, grip, lengths),
        }
    }

    fn while_full(
        &self,
        directory: &str,
        grip: &Grip,
        lengths: &Lengths,
        look: &mut dyn FnMut() -> Result<(), FleetError>,
    ) -> Result<(), FleetError> {
        self.fleet.fill(self.machine, directory)?;
        self.let_go(grip)?;
        thread::sleep(lengths.full);
        look()?;
        self.fleet.free(self.machine, directory)
    }

    fn with_clock(
        &self,
        days: i32,
        grip: &Grip,
        lengths: &Lengths,
        look: &mut dyn FnMut() -> Result<(), FleetError>,
    ) -> Result<(), FleetError> {
        self.set_clock(days)?;
        self.let_go(grip)?;
        thread::sleep(lengths.clock);
        look()?;
        self.set_clock(0)
    }

    /// Makes the step fail that the agent was stopped in. Scripts were told to beforehand.
    fn fail_step(&self, at: At, grip: &Grip) -> Result<(), FleetError> {
        let mask = if matches!(at, At::Arming | At::Rearming) {
            let journal = self.journal().unwrap_or_default();
            let lease = journal["attempt"]["lease"].clone();
            format!("lab-updater-dead-man-{lease}.timer")
        } else if matches!(at, At::Rebooting | At::RebootingBack) {
            "reboot.target".to_owned()
        } else {
            return Ok(());
        };
        // As `systemctl mask` does it, which knows nothing of units that are still to come.
        let masked = format!("/run/systemd/system/{mask}");
        let script = format!("ln -sfn /dev/null {masked} && systemctl daemon-reload");
        self.run(&["sh", "-ec", &script])?;
        self.let_go(grip)?;
        thread::sleep(MOMENT * 3);
        let script = format!("rm -f {masked} && systemctl daemon-reload");
        match self.fleet.exec(self.machine, &["sh", "-ec", &script]) {
            // It is on its way through a boot, which leaves nothing of it.
            Err(FleetError::Off(_)) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Makes the step hang: its script goes on being held, or its systemd stands still.
    fn hang_step(&self, at: At, grip: &Grip, lengths: &Lengths) -> Result<(), FleetError> {
        let (fleet, machine) = (self.fleet, self.machine);
        match (grip, at) {
            (Grip::Script(_), _) => {
                thread::sleep(lengths.hang);
                self.release()
            }
            // A service takes all its time when the machine goes down.
            (Grip::Agent, At::Rebooting | At::RebootingBack) => {
                self.let_go(grip)?;
                thread::sleep(lengths.outage);
                self.release()
            }
            (Grip::Agent, _) => {
                fleet.signal(machine, PID_1, Signal::SIGSTOP);
                self.let_go(grip)?;
                thread::sleep(lengths.hang);
                fleet.signal(machine, PID_1, Signal::SIGCONT);
                Ok(())
            }
        }
    }

    /// Ends what holds the machine.
    fn let_go(&self, grip: &Grip) -> Result<(), FleetError> {
        match grip {
            Grip::Script(_) => self.release(),
            Grip::Agent => {
                self.fleet.signal(self.machine, AGENT_UNIT, Signal::SIGCONT);
                Ok(())
            }
        }
    }

    pub(super) fn run(&self, words: &[&str]) -> Result<(), FleetError> {
        self.fleet.run(self.machine, words).map(drop)
    }
}
