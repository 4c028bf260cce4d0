//! What a name resolves to, by the resolver of the coordinator's own host.

use std::net::IpAddr;

use tokio::net::lookup_host;

use super::Found;

/// Asks for every address of a name.
pub(super) async fn resolve(name: &str, answer: Option<IpAddr>) -> Found {
    let found = match lookup_host((name, 0)).await {
        Ok(found) => found,
        // The resolver has no kinds of errors, only texts: this one is of EAI_AGAIN, and says that
        // nobody was there to be asked.
        Err(error) if error.to_string().contains("emporary failure") => {
            return Found::error(format!("{name}: {error}"));
        }
        Err(error) => return Found::fail(format!("{name}: {error}")),
    };
    let mut addresses: Vec<IpAddr> = found.map(|found| found.ip().to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let said = format!("{name} is {}", shown.join(", "));
    match answer {
        Some(answer) if !addresses.contains(&answer) => {
            Found::fail(format!("{said}, and not {answer}"))
        }
        Some(_) | None if addresses.is_empty() => Found::fail(format!("{name} has no address")),
        Some(_) | None => Found::pass(said),
    }
}
