//! What a new configuration says and is over already. It is valid, and holds nothing up: a freeze like that is
//! mostly one of which somebody got the year wrong.

use common::Timestamp;

use super::{Fault, FleetConfig};
use crate::window;

/// Entries of one calendar that are named.
const SHOWN: usize = 3;

impl FleetConfig {
    /// What its calendars have beyond those of the configuration before, and is over by the clocks of the fleet's
    /// zone.
    pub(crate) fn over(&self, before: Option<&Self>, now: Timestamp) -> Vec<Fault> {
        let Ok(zone) = window::zone(&self.timezone) else {
            return Vec::new();
        };
        let of = |(name, calendar): (&String, &crate::calendar::Calendar)| {
            let before = before.and_then(|before| before.calendars.get(name));
            let over = calendar.over(before, now, &zone);
            let shown = over[..over.len().min(SHOWN)].join(", ");
            let what = match over.len() {
                0 => return None,
                count if count > SHOWN => format!("{shown} and {} more", count - SHOWN),
                _ => shown,
            };
            Some(Fault {
                path: format!("updateSettings.calendars.{name}"),
                message: format!("{what} is over, and holds nothing up"),
                hint: "is the year right?".to_owned(),
            })
        };
        self.calendars.iter().filter_map(of).collect()
    }
}
