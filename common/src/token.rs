//! Enrolment tokens: a one-time secret and the pin of the fleet's CA, in one printable word.
//!
//! `labenr1_` and, in unpadded URL-safe base 64: 20 bytes of secret, the SHA-256 of the CA's
//! subject public key info, and the first 4 bytes of the SHA-256 of both, which catch a token that
//! was cut short or mistyped. The prefix lets secret scanners find a token that leaked.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// What every token begins with.
pub const PREFIX: &str = "labenr1_";

const SECRET: usize = 20;
const PIN: usize = 32;
const CHECK: usize = 4;

/// A token, taken apart. It has no `Debug`: a secret is not printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// 160 bits that only the token's holder knows.
    pub secret: [u8; SECRET],
    /// SHA-256 of the subject public key info of the CA that the server must prove.
    pub ca_pin: [u8; PIN],
}

/// Why a text is not a token. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another beginning.
    #[error("an enrolment token begins with {PREFIX}")]
    Prefix,
    /// Not base 64, or the wrong length.
    #[error("the enrolment token is incomplete or has characters that do not belong there")]
    Shape,
    /// The check bytes do not fit.
    #[error("the enrolment token is mistyped: its check sum does not fit")]
    Checksum,
}

impl EnrolmentToken {
    /// Reads a token; white space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Shape)?;
        if bytes.len() != SECRET + PIN + CHECK {
            return Err(TokenError::Shape);
        }
        let (content, check) = bytes.split_at(SECRET + PIN);
        if Sha256::digest(content)[..CHECK] != *check {
            return Err(TokenError::Checksum);
        }
        let mut token = Self {
            secret: [0; SECRET],
            ca_pin: [0; PIN],
        };
        token.secret.copy_from_slice(&content[..SECRET]);
        token.ca_pin.copy_from_slice(&content[SECRET..]);
        Ok(token)
    }

    /// The token as it is handed to a person.
    pub fn reveal(&self) -> String {
        let mut bytes = [self.secret.as_slice(), self.ca_pin.as_slice()].concat();
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What the coordinator keeps of the secret: its SHA-256, hexadecimal.
    pub fn secret_hash(&self) -> String {
        crate::text::hex(&Sha256::digest(self.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            secret: [7; SECRET],
            ca_pin: [9; PIN],
        }
    }

    #[test]
    fn a_token_survives_the_way_there() {
        let text = format!("  {}\n", token().reveal());
        assert!(EnrolmentToken::parse(&text) == Ok(token()));
    }

    #[test]
    fn a_damaged_token_is_told_from_a_wrong_one() {
        let good = token().reveal();
        let error = |text: &str| EnrolmentToken::parse(text).err();
        assert_eq!(error("hello"), Some(TokenError::Prefix));
        assert_eq!(error(&good[..good.len() - 3]), Some(TokenError::Shape));
        assert_eq!(
            error(&good.replacen("Bw", "Bx", 1)),
            Some(TokenError::Checksum)
        );
    }
}
