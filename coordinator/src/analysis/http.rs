//! Whether an address answers a GET as it should, and how much is read of any answer.

use std::time::{Duration, Instant};

use common::error_chain::Chain;
use reqwest::{Client, Response};

use super::Found;

/// Most that is read of an answer, in bytes.
pub(super) const BODY_MAX: usize = 1024 * 1024;

/// An answer, as much of it as is read.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Whether there is more.
    pub(super) cut: bool,
}

/// Asks, and looks at the answer.
pub(super) async fn get(
    client: &Client,
    url: &str,
    status: u16,
    contains: Option<&str>,
    within: Option<Duration>,
) -> Found {
    let begun = Instant::now();
    let answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_builder() => return Found::error(said(error)),
        Err(error) => return Found::fail(said(error)),
    };
    let found = answer.status();
    let body = match body(answer).await {
        Ok(body) => body,
        Err(error) => return Found::fail(said(error)),
    };
    let took = begun.elapsed();
    if found.as_u16() != status {
        return Found::fail(format!("it answered {found}, and not {status}"));
    }
    if let Some(text) = contains
        && !String::from_utf8_lossy(&body.bytes).contains(text)
    {
        let read = if body.cut { "the beginning of " } else { "" };
        return Found::fail(format!("{text:?} is not in {read}its answer"));
    }
    match within {
        Some(within) if took > within => {
            Found::fail(format!("it took {took:.0?}, and {within:?} are allowed"))
        }
        Some(_) | None => Found::pass(format!("it answered {found} in {took:.0?}")),
    }
}

/// Reads an answer up to its bound.
pub(super) async fn body(mut answer: Response) -> Result<Body, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = BODY_MAX - bytes.len();
        if chunk.len() > room {
            bytes.extend_from_slice(&chunk[..room]);
            return Ok(Body { bytes, cut: true });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body { bytes, cut: false })
}

/// What went wrong. The address may hold a secret: it is never shown.
pub(super) fn said(error: reqwest::Error) -> String {
    Chain(&error.without_url()).to_string()
}
