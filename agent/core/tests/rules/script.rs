//! What a test machine does when it is asked, and how it fails.

use agent_core::{ActivationEnd, Failure, HookEnd, RebootKind, Work};

/// What the machine does when it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) pre: Result<HookEnd, Failure>,
    pub(crate) post: Result<HookEnd, Failure>,
    pub(crate) rollback: Result<HookEnd, Failure>,
    pub(crate) activation: Result<ActivationEnd, Failure>,
    pub(crate) restore: Result<ActivationEnd, Failure>,
    pub(crate) snapshot: Result<(), Failure>,
    pub(crate) arming: Result<(), Failure>,
    pub(crate) stage: Result<(), Failure>,
    /// How many generations a cleanup removes.
    pub(crate) cleanup: Result<u32, Failure>,
    /// How a traffic script ends.
    pub(crate) traffic: Result<(), Failure>,
    /// How the judgements go, the first one first; healthy when there are no more.
    pub(crate) healthy: Vec<bool>,
    /// Whether the judgements find the machine cut off, the first one first; not when there are no more.
    pub(crate) cut_off: Vec<bool>,
    /// What had failed before and still does.
    pub(crate) no_better: Vec<String>,
    /// The target needs a reboot.
    pub(crate) needs_reboot: bool,
    /// A soft-reboot would do.
    pub(crate) soft: bool,
    /// A reboot that is asked for happens.
    pub(crate) reboots: bool,
    /// What the next boots bring up, the first one first; the profile when there are no more.
    pub(crate) boots: Vec<&'static str>,
    /// The coordinator answers.
    pub(crate) connected: bool,
    /// Renewals hang: neither answered nor refused.
    pub(crate) hangs: bool,
    /// Somebody else switches the machine to `theirs` while it is at this work.
    pub(crate) others: Option<fn(&Work) -> bool>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pre: Ok(HookEnd::Succeeded),
            post: Ok(HookEnd::Succeeded),
            rollback: Ok(HookEnd::Succeeded),
            activation: Ok(ActivationEnd::Done),
            restore: Ok(ActivationEnd::Done),
            snapshot: Ok(()),
            arming: Ok(()),
            stage: Ok(()),
            cleanup: Ok(3),
            traffic: Ok(()),
            healthy: Vec::new(),
            cut_off: Vec::new(),
            no_better: Vec::new(),
            needs_reboot: false,
            soft: false,
            reboots: true,
            boots: Vec::new(),
            connected: true,
            hangs: false,
            others: None,
        }
    }
}

impl Script {
    /// Which reboot leads to the target, if it takes one.
    pub(crate) fn reboot(&self) -> Option<RebootKind> {
        let kind = if self.soft {
            RebootKind::UserSpace
        } else {
            RebootKind::Machine
        };
        self.needs_reboot.then_some(kind)
    }
}
