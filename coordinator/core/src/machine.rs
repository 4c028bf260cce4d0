//! What the coordinator believes about one machine.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use common::{
    Action, AttemptStatus, BootId, CheckResult, CleanedUp, Declined, DeclinedKind, Epoch,
    HealthState, LeaseId, MachineReport, StorePath, Target, Timestamp, TrafficDone,
};
use serde::{Deserialize, Serialize};

use crate::{alarm::Alarm, bad_target::source_of, wait::WaitReason};

/// Boots remembered to tell a late report of an earlier one.
const PAST_BOOTS: usize = 8;

/// Attempts of which is remembered what they took: enough for one that was slow for once to be seen,
/// and few enough to forget it some weeks later.
const TOOK_KEPT: usize = 5;

/// With fewer attempts than that, a machine is not taken for quicker than it is expected to be.
const TOOK_FEW: usize = 3;

/// Nothing is expected to take less: what is written down has no fractions of a second, and the way of
/// a grant has some.
const NEEDS_MIN: Duration = Duration::from_secs(60);

/// A machine that has reported, or that somebody pinned a target for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its newest report, without what changes at every heartbeat.
    pub report: Option<MachineReport>,
    /// Boots before the present one, newest last.
    pub past_boots: VecDeque<BootId>,
    /// What it is to run, from the newest `prepare`.
    pub pin: Option<Pin>,
    /// What it ran before the newest update that it was to be part of: what a rollback goes to, and
    /// nothing older. `None` after a rollback.
    pub previous: Option<StorePath>,
    /// Why it takes a slot although it holds no lease.
    pub failed: Option<Failed>,
    /// Whether its last attempt did not end as it should.
    #[serde(default)]
    pub failed_last: bool,
    /// What its last update was to and failed with, since that was last put aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_with: Option<String>,
    /// Attempts on end that did not end as they should, since somebody last put it aside or released it.
    #[serde(default, skip_serializing_if = "crate::policy::is_zero")]
    pub failures_in_a_row: u32,
    /// What its last attempts took that were carried out, in seconds, newest last.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub took_s: VecDeque<u64>,
    /// The same of those alone in which the machine was rebooted; soft-reboots are none.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub took_with_reboot_s: VecDeque<u64>,
    /// Since when it has run what it runs, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_since: Option<Timestamp>,
    /// Since when it has had something else than it runs, or would boot something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unapplied_since: Option<Timestamp>,
    /// What people have been told of it that still holds.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub told: BTreeSet<Alarm>,
    /// What is known from heartbeats only; not part of the journal.
    #[serde(skip)]
    pub heard: Heard,
}

/// A target that somebody named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What to run.
    pub target: Target,
    /// When it was named.
    pub at: Timestamp,
    /// Who named it.
    pub by: String,
}

/// A machine that failed and is not known to be healthy again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The lease it failed under.
    pub lease: LeaseId,
    /// The group whose limit it counts against.
    pub group: common::GroupName,
    /// Since when.
    pub at: Timestamp,
    /// What happened.
    pub reason: String,
}

/// What heartbeats say. Lost at a restart, rebuilt by the next poll.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When it was last heard of; after a restart, when the coordinator began to listen.
    pub at: Option<Timestamp>,
    /// Since when it has not been silent for so long that it counted as offline.
    pub since: Option<Timestamp>,
    /// Highest sequence number of the present boot.
    pub sequence: u64,
    /// That of the poll which was last answered with a grant: only a later one can say that the
    /// grant never came.
    pub granted: u64,
    /// Its running attempt.
    pub attempt: Option<AttemptStatus>,
    /// Its newest check results, with details.
    pub checks: Vec<CheckResult>,
    /// The check request that they answer.
    pub health_request: u64,
    /// Free bytes in its store.
    pub store_free_bytes: u64,
    /// Highest epoch it has acknowledged.
    pub epoch: Epoch,
    /// What it does not stage for now.
    pub declined: Option<Declined>,
    /// What came of its last cleanup.
    pub cleaned_up: Option<CleanedUp>,
    /// What came of the last order about its traffic.
    pub traffic: Option<TrafficDone>,
}

/// Heartbeats are not facts: two states are the same fleet whatever was heard meanwhile.
impl PartialEq for Heard {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Heard {}

impl Pin {
    /// The number of this wish: naming the same target again is a new one.
    pub fn wish(&self) -> u64 {
        u64::try_from(self.at.as_millis()).unwrap_or_default()
    }
}

impl Machine {
    /// What its next attempt is expected to take: the longest of its last ones, or for one that reboots the
    /// machine of its last ones that did. One or two of them say too little to go below what is expected of
    /// everybody, or what the machine has shown otherwise.
    pub fn needs(&self, reboots: bool, expected: Duration) -> Duration {
        let longest = |took: &VecDeque<u64>| took.iter().max().copied().map(Duration::from_secs);
        let all = longest(&self.took_s);
        let (its, alike) = if reboots {
            (
                longest(&self.took_with_reboot_s),
                self.took_with_reboot_s.len(),
            )
        } else {
            (all, self.took_s.len())
        };
        let least = if alike < TOOK_FEW {
            all.unwrap_or(expected).max(expected)
        } else {
            NEEDS_MIN
        };
        its.unwrap_or(least).max(least)
    }

    /// Whether what it has staged takes a reboot.
    pub(crate) fn has_staged_a_reboot(&self) -> bool {
        let staged = self
            .report
            .as_ref()
            .and_then(|report| report.staged.as_ref());
        staged.is_some_and(|staged| staged.needs_reboot)
    }

    /// Whether its present boot is another one of the kernel than this.
    pub(crate) fn has_booted_since(&self, boot: &BootId) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| report.boot_id.of_kernel() != boot.of_kernel())
    }

    /// Remembers what an attempt took that was carried out, and whether it rebooted the machine.
    pub(crate) fn has_taken(&mut self, took: Duration, rebooted: bool) {
        let with_reboot = rebooted.then_some(&mut self.took_with_reboot_s);
        for kept in [Some(&mut self.took_s), with_reboot].into_iter().flatten() {
            if kept.len() == TOOK_KEPT {
                kept.pop_front();
            }
            kept.push_back(took.as_secs());
        }
    }

    /// What it really runs, as far as it has said.
    pub fn running(&self) -> Option<&StorePath> {
        self.report.as_ref()?.running.as_ref()
    }

    /// What its own checks say.
    pub fn health(&self) -> HealthState {
        self.report
            .as_ref()
            .map_or(HealthState::Unknown, |report| report.health.state)
    }

    /// The closure that this target came to on the machine, once it is staged there.
    pub fn staged(&self, target: &Target) -> Option<&StorePath> {
        let staged = self.report.as_ref()?.staged.as_ref()?;
        (staged.target == *target).then_some(&staged.path)
    }

    /// Why the machine does not stage this target, which it was asked for with this wish.
    pub fn declined(&self, target: &Target, wish: u64) -> Option<WaitReason> {
        let declined = self.heard.declined.as_ref()?;
        if declined.target != *target || declined.wish != wish {
            return None;
        }
        let reason = declined.reason.clone();
        Some(match declined.kind {
            DeclinedKind::StagingFailed => WaitReason::StagingFailed {
                reason,
                ends_at: None,
                zone: String::new(),
            },
            DeclinedKind::BadTarget => WaitReason::BadTarget { reason },
            DeclinedKind::NotAllowed => WaitReason::TargetNotAllowed { reason },
        })
    }

    /// Why the machine would refuse an update to this target, whoever asks for it: it failed with it before, or its
    /// own configuration does not allow it. What it could not obtain it tries again, and a new wish changes that;
    /// this it does not.
    pub fn refuses(&self, target: &Target) -> Option<WaitReason> {
        let declined = self.heard.declined.as_ref()?;
        match declined.kind {
            DeclinedKind::StagingFailed => None,
            DeclinedKind::BadTarget | DeclinedKind::NotAllowed => {
                let staged = self.staged(target).is_some();
                let why = self.declined(target, declined.wish);
                why.filter(|_| !staged)
            }
        }
    }

    /// That the machine's last update was to this target and failed.
    pub fn failed_to(&self, target: &Target) -> Option<WaitReason> {
        let with = self.failed_with.as_deref();
        (with == Some(source_of(target))).then(|| WaitReason::BadTarget {
            reason: "the last update to it did not end as it should".to_owned(),
        })
    }

    /// Whether the machine already runs this target.
    pub fn runs(&self, target: &Target) -> bool {
        let path = target.closure().or_else(|| self.staged(target));
        path.is_some() && path == self.running()
    }

    /// Whether the machine is where such a rollout would take it. What waits for the next boot is
    /// taken back as well.
    pub fn is_there(&self, action: Action, target: &Target) -> bool {
        match action {
            Action::Update => self.runs(target),
            Action::Rollback => {
                let report = self.report.as_ref();
                let boots = report.and_then(|report| report.profile.as_ref());
                self.runs(target) && boots == self.running()
            }
            Action::Reboot => false,
        }
    }

    /// Whether this report is older than what is known: of an earlier boot, or overtaken.
    pub fn is_stale(&self, report: &MachineReport) -> bool {
        let Some(known) = &self.report else {
            return false;
        };
        self.past_boots.contains(&report.boot_id)
            || (known.boot_id == report.boot_id
                && report.sequence < known.sequence.max(self.heard.sequence))
    }

    /// The facts of a report: what is written when it changes. Progress, sizes and the wording of
    /// checks change all the time and are heartbeats.
    pub fn facts(report: &MachineReport) -> MachineReport {
        let mut facts = report.clone();
        facts.attempt = None;
        facts.store_free_bytes = 0;
        facts.health_request = 0;
        facts.epoch = Epoch::default();
        facts.declined = None;
        // That it can clean up is a fact; what came of it is told with the run.
        facts.cleaned_up = facts.cleaned_up.map(|_| CleanedUp::default());
        // Just so that it has a script for its traffic.
        facts.traffic = facts.traffic.map(|_| TrafficDone::default());
        for check in &mut facts.health.checks {
            check.detail.clear();
        }
        facts
    }

    /// Whether the facts of a report are new. Asked at every poll, and nearly always answered with
    /// no: it looks and copies nothing.
    pub fn is_news(&self, report: &MachineReport) -> bool {
        let Some(known) = &self.report else {
            return true;
        };
        // Every part is named, so that a new one is not forgotten here: it belongs to the facts, or
        // is blanked in `facts` and left aside here.
        let MachineReport {
            agent_version,
            boot_id,
            sequence: _,
            running,
            booted,
            profile,
            generation,
            generations,
            health,
            health_request: _,
            epoch: _,
            staged,
            attempt: _,
            store_free_bytes: _,
            last_lease,
            declined: _,
            cleaned_up,
            traffic,
        } = report;
        let words = |check: &CheckResult, other: &CheckResult| {
            check.name == other.name && check.passed == other.passed
        };
        let checks = health.checks.iter().zip(&known.health.checks);
        known.agent_version != *agent_version
            || known.boot_id != *boot_id
            || known.running != *running
            || known.booted != *booted
            || known.profile != *profile
            || known.generation != *generation
            || known.generations != *generations
            || known.health.state != health.state
            || known.health.checks.len() != health.checks.len()
            || !checks.into_iter().all(|(one, other)| words(one, other))
            || known.staged != *staged
            || known.last_lease != *last_lease
            || known.cleaned_up.is_some() != cleaned_up.is_some()
            || known.traffic.is_some() != traffic.is_some()
    }

    /// Takes over the facts of a report.
    pub fn learn(&mut self, facts: MachineReport) {
        if let Some(known) = &self.report
            && known.boot_id != facts.boot_id
        {
            if self.past_boots.len() == PAST_BOOTS {
                self.past_boots.pop_front();
            }
            self.past_boots.push_back(known.boot_id.clone());
            self.heard.sequence = 0;
        }
        self.report = Some(facts);
    }
}
