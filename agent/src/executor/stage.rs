//! Before anything changes: obtaining the target, what speaks against it, and how the machine was.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use agent_core::{Answer, Baseline, Done, Job, MayBegin, Reach, RebootKind};
use common::{Action, Changes, Staged, StorePath, Target};
use futures_util::future::join;

use super::{Executor, answer};
use crate::{
    closure_diff, health,
    host::{Family, Host, HostError, Resources, RunAs, Since, Unit},
    links::{self, CURRENT, PROFILE},
    roots,
};

impl<H: Host> Executor<H> {
    pub(super) async fn stage(
        &self,
        job: &Job,
        target: &Target,
        action: Action,
    ) -> Result<Answer, HostError> {
        self.config.targets.check(target)?;
        if !self.host.has_unit(job.step).await? {
            self.host
                .stop(&[Family::Stage, Family::BackupCheck, Family::Condition])
                .await?;
            self.check_hooks()?;
            if disturbs(action) {
                self.check_room_for(target).await?;
            }
        }
        let (path, output) = self.host.obtain(job.step, target, job.within).await?;
        let links = self.host.links();
        links
            .check_system(&path)
            .map_err(|error| HostError::Missing(error.to_string()))?;
        self.check_ready(job, &path, action).await?;
        let reboot_reasons = links.reboot_reasons(&path);
        let reboot = self.reboot_kind(&reboot_reasons).await;
        let changes = self.changes(&path).await;
        let staged = Staged {
            target: target.clone(),
            path,
            needs_reboot: reboot.is_some(),
            reboot_reasons,
            soft_reboot: reboot == Some(RebootKind::UserSpace),
            changes,
        };
        Ok(Answer {
            result: Ok(Done::Staged(staged)),
            output,
        })
    }

    /// The reboot that is enough for what only a reboot takes up, for these reasons; `None` without any.
    async fn reboot_kind(&self, reasons: &[String]) -> Option<RebootKind> {
        match reasons {
            [] => None,
            _ if links::lie_in_user_space(reasons) && self.host.can_soft_reboot().await => {
                Some(RebootKind::UserSpace)
            }
            _ => Some(RebootKind::Machine),
        }
    }

    /// What the target changes. For people only, so no reason to stage nothing.
    async fn changes(&self, target: &StorePath) -> Option<Changes> {
        let running = self.host.links().resolve(CURRENT)?;
        match self.host.difference(&running, target).await {
            Ok(difference) => Some(closure_diff::changes(&running, target, &difference?)),
            Err(error) => {
                let error = common::error_chain::Chain(&error);
                tracing::warn!("what {target} changes cannot be said: {error}");
                None
            }
        }
    }

    fn check_hooks(&self) -> Result<(), HostError> {
        let hooks = &self.config.hooks;
        let all = [
            &hooks.pre_update,
            &hooks.post_update,
            &hooks.rollback,
            &hooks.backup_check,
            &hooks.traffic,
        ];
        for hook in all.into_iter().flatten() {
            let usable = fs::metadata(hook)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
            if !usable {
                let hook = hook.display();
                return Err(HostError::Missing(format!("the hook {hook} cannot be run")));
            }
        }
        Ok(())
    }

    /// Whether the machine is ready for what is to be done to it. Going back waits for nothing: what
    /// is not as it should be may be what it is to mend.
    async fn check_ready(
        &self,
        job: &Job,
        path: &StorePath,
        action: Action,
    ) -> Result<(), HostError> {
        if !disturbs(action) {
            return Ok(());
        }
        self.check_room_to_switch(path)?;
        let tag = job.step.to_string();
        let unit = (Family::Condition, tag.as_str());
        let conditions = &self.config.conditions;
        let since = Since::Ago(self.config.check_interval);
        // Side by side: together they may take as long as one of the machine's own scripts.
        let found = health::run_all(&self.host, &self.clock, conditions, unit, since);
        let (found, backup) = join(found, self.check_backup(job)).await;
        let failing = found.checks.iter().filter(|check| !check.passed);
        let failing: Vec<String> = failing
            .map(|check| format!("{}: {}", check.name, check.detail))
            .collect();
        if !failing.is_empty() {
            return Err(HostError::NotReady(failing.join("; ")));
        }
        backup
    }

    async fn check_backup(&self, job: &Job) -> Result<(), HostError> {
        let Some(script) = &self.config.hooks.backup_check else {
            return Ok(());
        };
        let unit = Unit {
            family: Family::BackupCheck,
            tag: job.step.to_string(),
            description: "lab-updater: backup check".to_owned(),
            command: vec![script.to_string_lossy().into_owned()],
            environment: Vec::new(),
            within: self.config.hooks.timeout,
            resources: Resources::tasks(self.config.limits.hook_tasks_max),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        };
        let ran = self.host.run(&unit).await?;
        if ran.end.succeeded() {
            return Ok(());
        }
        let output = common::text::tame_line(&ran.output, 400);
        let end = ran.end;
        Err(HostError::NotReady(format!(
            "cannot see a fresh backup: {end}: {output}"
        )))
    }

    pub(super) async fn snapshot(
        &self,
        job: &Job,
        target: &StorePath,
        action: Action,
        reboot_wait: Option<Duration>,
    ) -> Result<Answer, HostError> {
        self.check_ready(job, target, action).await?;
        let boots = || {
            let reasons = self.host.links().reboot_reasons(target);
            action == Action::Reboot || !reasons.is_empty()
        };
        if let Some(wait) = reboot_wait.filter(|_| boots()) {
            self.await_leave_to_reboot(wait).await;
        }
        if !self.host.is_complete(target).await? {
            return Err(HostError::Missing(format!(
                "{target} is not in the store any more"
            )));
        }
        let facts = self.measure().await?;
        let (Some(running), Some(boot_default)) = (&facts.running, facts.boot_default()) else {
            return Err(HostError::Missing(format!(
                "{CURRENT} and {PROFILE} do not both lead to a system: there would be no way back"
            )));
        };
        if facts.profile.as_ref() != Some(boot_default) {
            tracing::warn!(
                "the boot loader would start {boot_default} next, and {PROFILE} leads elsewhere: \
                 going back, should it come to that, is to what the boot loader says"
            );
        }
        for path in [running, boot_default] {
            roots::add(self.host.links(), path)?;
        }
        if let Err(error) = self.host.mark_journal().await {
            tracing::warn!("new journal entries will not be told from old ones: {error}");
        }
        let failed_units = self.units_not_well().await?;
        let baseline = Baseline {
            failed_units: failed_units.into_iter().map(|unit| unit.name).collect(),
            failed_checks: self.failing_checks(job).await,
            reached: self.reached(&Reach::ALL).await,
        };
        // The running system may be another one than when the target was staged.
        let reasons = self.host.links().reboot_reasons(target);
        let needs_reboot = self.reboot_kind(&reasons).await;
        Ok(answer(Ok(Done::Snapshot {
            facts,
            baseline,
            needs_reboot,
        })))
    }
}

/// Whether it is to wait for the machine to be ready.
fn disturbs(action: Action) -> bool {
    match action {
        Action::Update | Action::Reboot => true,
        Action::Rollback => false,
    }
}
