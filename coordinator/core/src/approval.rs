//! Approvals: who is asked, what an answer is about, and what silence means.

use common::{GroupName, OperatorName, RolloutId, Timestamp};

use crate::{
    change::Change,
    decide::Draft,
    fleet::{Fleet, rollout_id},
    policy::ApprovalOf,
    request::{Refusal, Reply},
    rollout::{Approval, PauseReason, Rollout, RolloutGroup},
    wait::FourEyes,
};

/// Who approves when nobody has answered in time.
pub(crate) const THE_POLICY: &str = "its policy (autoApproveAfter)";

/// What an operator answers.
pub(crate) struct Answer<'a> {
    /// In which rollout; `None`: in the only one that waits.
    pub(crate) rollout: Option<RolloutId>,
    /// For which group; `None`: for every one that waits.
    pub(crate) group: Option<GroupName>,
    /// That it is not to go.
    pub(crate) reject: bool,
    /// In words; may be empty.
    pub(crate) comment: &'a str,
}

impl Fleet {
    /// Takes an operator's answer.
    pub(crate) fn approve(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        answer: Answer<'_>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let Answer {
            rollout,
            group,
            reject,
            comment,
        } = answer;
        let number = self.find(rollout, "waits for approval", |rollout| {
            rollout.groups.iter().any(waits)
        })?;
        let found = &self.facts().rollouts[&number];
        let named = |g: &&RolloutGroup| group.as_ref().is_none_or(|name| *name == g.name);
        let chosen = found.groups.iter().filter(|g| waits(g)).filter(named);
        let mut groups: Vec<GroupName> = chosen.map(|group| group.name.clone()).collect();
        if groups.is_empty() {
            let what = "group that waits for approval in this rollout";
            let name = group.map_or_else(|| "any".to_owned(), |group| group.to_string());
            return Err(Refusal::NotFound { what, name });
        }
        let rollout = rollout_id(number);
        if reject {
            let group = groups.swap_remove(0);
            let text = format!("rejected {group} of rollout {rollout}");
            let (by, comment) = (by.to_string(), comment.to_owned());
            let reason = PauseReason::Rejected { group, by, comment };
            self.pause_rollout(&rollout, reason, draft);
            return Ok(Reply::Done(text));
        }
        let groups = with_others(found, groups);
        self.not_their_own(found, &groups, by.as_str())?;
        let names: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
        let text = format!("approved {} of rollout {rollout}", names.join(", "));
        self.give(&rollout, groups, by.as_str(), comment, now, draft);
        Ok(Reply::Done(text))
    }

    /// Refuses a yes to a rollout of one's own, where one of these groups takes somebody else for it.
    fn not_their_own(
        &self,
        rollout: &Rollout,
        groups: &[GroupName],
        by: &str,
    ) -> Result<(), Refusal> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever asks also answers.
        if self.has(crate::bug::Bug::OwnApproved) {
            return Ok(());
        }
        let Some(path) = self.strict(groups.iter()).filter(|_| rollout.is_of(by)) else {
            return Ok(());
        };
        let own = match rollout.asked_by.as_str() {
            "" => "is your own",
            _ => "comes of a schedule that you ran",
        };
        Err(Refusal::Forbidden(format!(
            "rollout {} {own}, and somebody else must approve it ({path})",
            rollout.id
        )))
    }

    /// By which key somebody else than its author must approve one of these groups, where one of them wants that.
    fn strict<'a>(&self, mut groups: impl Iterator<Item = &'a GroupName>) -> Option<String> {
        let config = self.facts().config.as_ref()?;
        let group = groups.find(|group| config.needs_four_eyes(group))?;
        Some(config.path_for_group(group, "fourEyes"))
    }

    /// Who may not answer what this group waits for, if anybody: whoever is offered the command is to know.
    pub(crate) fn four_eyes(&self, rollout: &Rollout, group: &RolloutGroup) -> Option<FourEyes> {
        let author = rollout.author()?;
        // One answer is for all of them.
        let together = rollout.groups.iter().filter(|other| {
            other.name == group.name || (is_shared(group) && is_shared(other) && waits(other))
        });
        let path = self.strict(together.map(|group| &group.name))?;
        Some(FourEyes { author, path })
    }

    /// What is asked, with the command that answers it.
    pub(crate) fn approval_text(&self, rollout: &RolloutId, group: &GroupName) -> String {
        let command = format!("lab update approve {rollout} --group={group}");
        let Some((found, group)) = self
            .rollout(rollout)
            .and_then(|found| Some((found, found.group(group)?)))
        else {
            return format!("`{command}`");
        };
        let by = self.four_eyes(found, group);
        let by = by.map_or_else(String::new, |others| format!(", {others}"));
        match group.policy.approval_of {
            ApprovalOf::Group => format!("`{command}`{by}"),
            ApprovalOf::Wave => format!("wave {}: `{command}`{by}", group.current + 1),
            ApprovalOf::Rollout => {
                format!("with every group that shares its approval: `{command}`{by}")
            }
        }
    }

    /// Asks for the approval that holds a group back, and sees what becomes of the question.
    pub(crate) fn ask_approval(
        &mut self,
        number: u64,
        group: usize,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let found = &self.facts().rollouts[&number];
        let (rollout, g) = (found.id.clone(), &found.groups[group]);
        let (policy, name) = (&g.policy, g.name.clone());
        let Some(asked) = g.approval.waits_since() else {
            return;
        };
        let Some(since) = asked else {
            // One answer is for all of them, and one question is enough.
            let asked = |other: &RolloutGroup| matches!(other.approval, Approval::Asked(_));
            let mut shared = found.groups.iter().filter(|other| is_shared(other));
            if !is_shared(g) || !shared.any(asked) {
                let change = Change::ApprovalAsked {
                    rollout,
                    group: name,
                    at: now,
                };
                self.commit(draft, change);
            }
            return;
        };
        let consents = policy.approved_after;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever may answer has no time for it.
        let consents = consents.map(|after| match self.has(crate::bug::Bug::ConsentAtOnce) {
            true => std::time::Duration::ZERO,
            false => after,
        });
        if consents.is_some_and(|after| since + after <= now) {
            let groups = with_others(found, vec![name]);
            self.give(&rollout, groups, THE_POLICY, "", now, draft);
            self.moved(number, group, now);
        } else if since + policy.approval_expiry <= now {
            #[cfg(feature = "seeded-bugs")]
            // BUG (seeded): nothing becomes of a question that nobody answers.
            if self.has(crate::bug::Bug::ApprovalForEver) {
                return;
            }
            let reason = PauseReason::ApprovalExpired { group: name };
            self.pause_rollout(&rollout, reason, draft);
        }
    }

    fn give(
        &mut self,
        rollout: &RolloutId,
        groups: Vec<GroupName>,
        by: &str,
        comment: &str,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        for group in groups {
            let change = Change::Approved {
                rollout: rollout.clone(),
                group,
                by: by.to_owned(),
                comment: comment.to_owned(),
                at: now,
            };
            self.commit(draft, change);
        }
    }
}

fn waits(group: &RolloutGroup) -> bool {
    group.approval.waits_since().is_some()
}

fn is_shared(group: &RolloutGroup) -> bool {
    group.policy.approval_of == ApprovalOf::Rollout
}

/// These groups, and with one that shares its approval all others that do.
fn with_others(rollout: &Rollout, groups: Vec<GroupName>) -> Vec<GroupName> {
    let group = |name: &GroupName| rollout.group(name);
    let shared = groups.iter().filter_map(group).any(is_shared);
    let all = rollout.groups.iter().filter(|g| waits(g));
    let all = all.filter(|g| groups.contains(&g.name) || (shared && is_shared(g)));
    all.map(|group| group.name.clone()).collect()
}
