//! Cleaning up: measured, decided by the core's rule, and done in that order at one moment.

use agent_core::{Answer, Before, Done, Facts, Failure, Job, cleanup::removable};
use common::{CleanUp, StorePath};

use super::{Executor, answer};
use crate::{
    host::{Host, HostError},
    roots,
};

impl<H: Host> Executor<H> {
    pub(super) async fn clean_up(
        &self,
        job: &Job,
        cleanup: &CleanUp,
        needed: &[StorePath],
        begun: Option<&Before>,
    ) -> Result<Answer, HostError> {
        let facts = self.measure().await?;
        let before = begun.cloned().unwrap_or_else(|| Before {
            generations: numbers(&facts),
            store_free_bytes: facts.store_free_bytes,
        });
        let cleaned = self.clean(job, cleanup, needed, &facts, &before).await;
        let facts = self.measure().await?;
        let left = numbers(&facts);
        let gone = before.generations.iter().filter(|n| !left.contains(n));
        let freed_bytes = facts
            .store_free_bytes
            .saturating_sub(before.store_free_bytes);
        Ok(answer(Ok(Done::CleanedUp {
            removed: u32::try_from(gone.count()).unwrap_or(u32::MAX),
            freed_bytes,
            failure: cleaned.err().map(|failure| failure.to_string()),
            facts,
        })))
    }

    async fn clean(
        &self,
        job: &Job,
        cleanup: &CleanUp,
        needed: &[StorePath],
        facts: &Facts,
        before: &Before,
    ) -> Result<(), Failure> {
        let links = self.host.links();
        let gone = removable(&links.aged_generations(), facts, cleanup, needed)?;
        // Roots of their own, whatever else keeps them: the next attempt's end drops what is too much.
        let found = [&facts.running, &facts.booted].into_iter().flatten();
        for path in needed.iter().chain(found).chain(facts.boot_default()) {
            if links.at(path.as_str()).exists() {
                roots::add(links, path)?;
            }
        }
        self.host.remove_generations(job.step, &gone).await?;
        let removed = links.generations().len() < before.generations.len();
        if removed || cleanup.collect {
            self.host.collect_garbage(job.step, job.within).await?;
        }
        Ok(())
    }
}

fn numbers(facts: &Facts) -> Vec<u64> {
    let numbers = facts.generations.iter();
    numbers.map(|generation| generation.number).collect()
}
