//! How messages are encoded: Protocol Buffers, with buffers that begin small.
//!
//! tonic sets aside 8 KiB for every direction of every call, and an agent keeps two calls open that
//! say next to nothing for minutes. Larger messages make a buffer grow, as ever.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a buffer begins with, in bytes: most messages of agents fit.
const BEGIN: usize = 512;

/// Bytes of messages that are sent together when they are ready together; tonic's own.
const TOGETHER: usize = 32 * 1024;

/// Protocol Buffers in small buffers.
#[derive(Clone, Copy, Debug)]
pub struct Lean<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Lean<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Lean<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BEGIN, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BEGIN, TOGETHER))
    }
}
