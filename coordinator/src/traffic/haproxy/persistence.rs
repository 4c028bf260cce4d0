//! Whether a backend keeps clients to their servers.
//!
//! A server that drains still takes the clients that are kept to it, and has no session of theirs between
//! two requests: it would seem to be empty while it is not.

use std::collections::BTreeMap;

use common::text::{DETAIL_MAX, tame_line};

use super::{Backend, HaproxyError, Server, odd, refused, rows};

/// How the line of a table in `show table` begins.
const TABLE: &str = "# table: ";

impl Backend<'_> {
    /// Refuses a backend that keeps clients to their servers.
    pub(super) async fn keeps_no_clients(
        &self,
        servers: &BTreeMap<String, Server>,
    ) -> Result<(), HaproxyError> {
        self.has_no_cookie(self.number(servers)?).await?;
        self.has_no_stick_rule().await
    }

    /// HAProxy shows cookies from `level operator` on, and leaves them empty below.
    async fn has_no_cookie(&self, number: u32) -> Result<(), HaproxyError> {
        const BACKENDS_AND_SERVERS: u8 = 2 + 4;
        let command = format!("show stat {number} {BACKENDS_AND_SERVERS} -1");
        let answer = self.ask(&command).await?;
        let Some(table) = answer.strip_prefix("# ") else {
            return Err(refused(command, &answer));
        };
        let mut shown = false;
        for row in rows(table, |c| c == ',', &command)? {
            let field = |column: &str| {
                let found = row.get(column).copied();
                found.ok_or_else(|| odd(&command, format!("no {column}")))
            };
            let (server, cookie) = (field("svname")?, field("cookie")?);
            let is_backend = server == "BACKEND";
            if !cookie.is_empty() {
                let of = match is_backend {
                    true => "the backend".to_owned(),
                    false => format!("server {server}"),
                };
                return Err(self.keeps(format!("`cookie {cookie}` of {of}")));
            }
            // Every backend has an algorithm, and it is hidden together with the cookies.
            shown |= is_backend && !field("algo")?.is_empty();
        }
        if shown {
            Ok(())
        } else {
            Err(HaproxyError::Hidden {
                backend: self.name.to_owned(),
            })
        }
    }

    /// A table of the backend's name that only counts (`http_req_rate` and the like) keeps nobody: what
    /// `stick` rules write to stores servers.
    async fn has_no_stick_rule(&self) -> Result<(), HaproxyError> {
        if !self.has_table().await? {
            return Ok(());
        }
        // No server has such a number, so that no entry is sent.
        let command = format!("show table {} data.server_id lt 0", self.name);
        let answer = self.ask(&command).await?;
        if answer.starts_with(TABLE) {
            return Err(self.keeps(format!("`stick` rules with stick-table {}", self.name)));
        }
        if answer.contains("not stored in this table") {
            return Ok(());
        }
        Err(refused(command, &answer))
    }

    /// Whether there is a stick-table of the backend's name.
    async fn has_table(&self) -> Result<bool, HaproxyError> {
        let command = "show table".to_owned();
        let answer = self.ask(&command).await?;
        let mut found = false;
        for line in answer.lines().filter(|line| !line.trim().is_empty()) {
            let Some((name, _)) = line.strip_prefix(TABLE).and_then(|l| l.split_once(',')) else {
                return Err(refused(command, line));
            };
            found |= name == self.name;
        }
        Ok(found)
    }

    fn keeps(&self, by: String) -> HaproxyError {
        HaproxyError::KeepsClients {
            backend: self.name.to_owned(),
            by: tame_line(&by, DETAIL_MAX),
        }
    }
}
