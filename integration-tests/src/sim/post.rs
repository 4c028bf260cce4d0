//! The messages under way, by number.

use std::{collections::VecDeque, rc::Rc};

use super::{
    event::{At, MachineIndex},
    world::Message,
};

/// How long a message can be under way: later copies are forgotten.
const MESSAGE_LIFE: At = 8 * 3_600_000;

/// Every message that is not forgotten. Their numbers follow on each other.
#[derive(Debug, Default)]
pub(crate) struct Post {
    /// The number of the first of them is how many were forgotten, and one.
    forgotten: u64,
    letters: VecDeque<Letter>,
}

/// A message, as long as a copy of it may still arrive, and what stays known of it.
#[derive(Debug)]
struct Letter {
    machine: MachineIndex,
    sent_at: At,
    message: Option<Rc<Message>>,
}

impl Post {
    /// Takes a message, and says its number.
    pub(crate) fn take(&mut self, message: Message) -> u64 {
        self.letters.push_back(Letter {
            machine: message.machine,
            sent_at: message.sent_at,
            message: Some(Rc::new(message)),
        });
        self.forgotten + self.letters.len() as u64
    }

    /// The message of this number.
    pub(crate) fn get(&self, id: u64) -> Option<&Rc<Message>> {
        self.letters.get(self.place(id)?)?.message.as_ref()
    }

    /// Whom it is from or to.
    pub(crate) fn machine_of(&self, id: u64) -> Option<MachineIndex> {
        self.letters
            .get(self.place(id)?)
            .map(|letter| letter.machine)
    }

    /// No further copy of it arrives.
    pub(crate) fn let_go(&mut self, id: u64) {
        let place = self.place(id);
        if let Some(letter) = place.and_then(|place| self.letters.get_mut(place)) {
            letter.message = None;
        }
    }

    /// Forgets those that are too old.
    pub(crate) fn forget(&mut self, now: At) {
        let old = |letter: &mut Letter| letter.sent_at + MESSAGE_LIFE < now;
        while self.letters.pop_front_if(old).is_some() {
            self.forgotten += 1;
        }
    }

    fn place(&self, id: u64) -> Option<usize> {
        let place = id.checked_sub(self.forgotten + 1)?;
        usize::try_from(place).ok()
    }
}
