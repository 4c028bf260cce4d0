//! The format number, and how values are written: JSON, cut into chunks that the storage engine
//! keeps inside its log.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::StoreError;

/// Largest value, in bytes. sled writes a leaf of its tree as one item, and an item of more than
/// 128 KiB (a quarter of a segment) into a file of its own that it never syncs. A leaf has up to 16
/// values, and up to 10 more before it is written anew: 26 of these stay below the limit.
pub(super) const CHUNK: usize = 4 * 1024;

/// The format of the store. A newer major number is refused; a newer minor one only adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Format {
    pub(super) const CURRENT: Self = Self { major: 1, minor: 0 };

    /// Refuses what this program cannot read.
    pub(super) fn check(self) -> Result<(), StoreError> {
        if self.major > Self::CURRENT.major {
            return Err(StoreError::Newer {
                found: self.major,
                known: Self::CURRENT.major,
            });
        }
        Ok(())
    }
}

pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode { what, source })
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Content(format!("{what} cannot be read: {error}")))
}

/// Key and value of every chunk of a value: the key and a number, big-endian so that chunks sort;
/// the first chunk begins with the length of the whole.
pub(super) fn chunks<'a>(
    key: &'a [u8],
    bytes: &'a [u8],
) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + 'a {
    let head = (bytes.len() as u64).to_be_bytes();
    let count = bytes.len().div_ceil(CHUNK).max(1);
    (0..count).map(move |number| {
        let part = &bytes[number * CHUNK..bytes.len().min((number + 1) * CHUNK)];
        let key = [key, &(number as u32).to_be_bytes()].concat();
        let value = if number == 0 {
            [&head, part].concat()
        } else {
            part.to_vec()
        };
        (key, value)
    })
}

/// Puts chunks together again, refusing what is not whole.
#[derive(Default)]
pub(super) struct Assembly {
    announced: u64,
    bytes: Vec<u8>,
}

impl Assembly {
    pub(super) fn push(&mut self, number: u32, value: &[u8]) -> Result<(), StoreError> {
        let whole = |ok: bool| {
            ok.then_some(())
                .ok_or_else(|| StoreError::Content("a chunk is missing".to_owned()))
        };
        if number == 0 {
            let (head, part) = value
                .split_first_chunk::<8>()
                .ok_or_else(|| StoreError::Content("a chunk is cut short".to_owned()))?;
            self.announced = u64::from_be_bytes(*head);
            self.bytes = part.to_vec();
            return Ok(());
        }
        whole(self.bytes.len() == number as usize * CHUNK)?;
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    /// Whether there is as much as the first chunk announced.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.announced
    }

    pub(super) fn finish(self, what: &str) -> Result<Vec<u8>, StoreError> {
        if self.is_whole() {
            return Ok(self.bytes);
        }
        Err(StoreError::Content(format!(
            "{what} has {} bytes of {}",
            self.bytes.len(),
            self.announced
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_size_come_back_whole() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut assembly = Assembly::default();
            let mut count = 0;
            for (number, (key, value)) in chunks(b"key", &bytes).enumerate() {
                assert!(value.len() <= CHUNK + 8);
                assert!(key.starts_with(b"key"));
                assembly.push(number as u32, &value).expect("in order");
                count += 1;
            }
            assert_eq!(count, size.div_ceil(CHUNK).max(1));
            assert_eq!(assembly.finish("it").expect("whole"), bytes);
        }
    }

    #[test]
    fn a_missing_chunk_is_noticed() {
        let bytes = vec![7; 3 * CHUNK];
        let all: Vec<_> = chunks(b"", &bytes).collect();
        let mut gap = Assembly::default();
        gap.push(0, &all[0].1).expect("the first");
        assert!(gap.push(2, &all[2].1).is_err());
        let mut short = Assembly::default();
        short.push(0, &all[0].1).expect("the first");
        short.push(1, &all[1].1).expect("the second");
        assert!(short.finish("it").is_err());
    }

    #[test]
    fn only_a_newer_major_format_is_refused() {
        let check = |major, minor| Format { major, minor }.check();
        assert!(check(1, 99).is_ok());
        assert!(matches!(
            check(2, 0),
            Err(StoreError::Newer { found: 2, known: 1 })
        ));
    }
}
