//! Questions to a file system that may never answer, such as one whose server is gone: each is asked
//! in a thread of its own, so that the agent's only thread goes on. A thread that hangs cannot be
//! ended, so there may only be so many.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::sync::oneshot;

/// The questions of this process.
pub(crate) static QUESTIONS: Questions = Questions::at_most(8);

/// Questions under way.
pub(crate) struct Questions {
    under_way: AtomicUsize,
    most: usize,
}

impl Questions {
    const fn at_most(most: usize) -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            most,
        }
    }

    /// Asks one. Waits for the answer for as long as the caller does.
    pub(crate) async fn ask<T: Send + 'static>(
        &'static self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::other("earlier looks have not come back"));
        }
        let (sender, answer) = oneshot::channel();
        let asking = thread::Builder::new().name("question".to_owned());
        let asking = asking.spawn(move || {
            let found = question();
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            // Nobody waits any more when it took too long.
            sender.send(found).ok();
        });
        if let Err(error) = asking {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        answer.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_question_without_an_answer_holds_nobody_up() {
        static TWO: Questions = Questions::at_most(2);
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (answer, hangs) = mpsc::channel::<()>();
            answers.push(answer);
            let asked = TWO.ask(move || hangs.recv().is_ok());
            let waited = tokio::time::timeout(Duration::from_millis(20), asked).await;
            waited.expect_err("it hangs, and this goes on");
        }
        let error = TWO.ask(|| ()).await.expect_err("no third thread");
        assert!(error.to_string().contains("have not come back"), "{error}");
        for answer in answers {
            answer.send(()).expect("somebody listens");
        }
        for _ in 0..1000 {
            if TWO.ask(|| 5).await.is_ok_and(|five| five == 5) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("what has come back is not counted any more");
    }
}
