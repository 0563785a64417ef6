//! Frames: four bytes of length, most significant first, and that many bytes of JSON.

use std::io;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// The longest frame. The control state, which is the largest thing that is ever sent, stays far
/// below it; whoever announces more is no member.
pub const FRAME_MAX: usize = 8 << 20;

/// The codec of a connection.
#[derive(Debug)]
pub(super) struct Frames(LengthDelimitedCodec);

impl Frames {
    pub(super) fn new() -> Self {
        let codec = LengthDelimitedCodec::builder()
            .length_field_type::<u32>()
            .max_frame_length(FRAME_MAX)
            .new_codec();
        Self(codec)
    }
}

impl Decoder for Frames {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(self.0.decode(buffer)?.map(BytesMut::freeze))
    }
}

impl Encoder<Bytes> for Frames {
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, buffer: &mut BytesMut) -> io::Result<()> {
        self.0.encode(frame, buffer)
    }
}

/// A message as the body of a frame.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Bytes> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    if body.len() > FRAME_MAX {
        return Err(io::Error::other(format!(
            "a message of {} bytes is longer than a frame, which holds {FRAME_MAX}",
            body.len()
        )));
    }
    Ok(body.into())
}

/// The message in a frame.
pub(super) fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    serde_json::from_slice(frame).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("an unreadable message: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use openraft_rt_tokio::TokioRuntime;

    use crate::runtime::wire::Request;

    use super::*;

    #[test]
    fn what_goes_in_comes_out_however_it_is_cut() {
        let mut wire = BytesMut::new();
        for message in ["first", "", "third"] {
            Frames::new().encode(encode(&message).unwrap(), &mut wire).unwrap();
        }
        let (mut decoder, mut buffer, mut seen) = (Frames::new(), BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.extend_from_slice(&[byte]);
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                seen.push(decode::<String>(&frame).unwrap());
            }
        }
        assert_eq!(seen, ["first", "", "third"]);
    }

    #[test]
    fn a_frame_of_four_gigabytes_is_refused_before_a_byte_of_it_is_kept() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, b'{'][..]);
        let refused = Frames::new().decode(&mut buffer).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert!(buffer.capacity() < FRAME_MAX);
    }

    /// Bytes of any kind end in messages or in an error, never in a panic.
    #[test]
    fn garbage_is_refused() {
        use rand::{RngCore, SeedableRng};
        let mut draw = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let length = (draw.next_u32() % 64) as usize;
            let mut bytes = vec![0; length];
            draw.fill_bytes(&mut bytes);
            if draw.next_u32().is_multiple_of(2) && length >= 4 {
                // A plausible length, so that the body is looked at too.
                bytes[..4].copy_from_slice(&(length as u32 - 4).to_be_bytes());
            }
            let mut buffer = BytesMut::from(&bytes[..]);
            if let Ok(Some(frame)) = Frames::new().decode(&mut buffer) {
                let _ = decode::<super::super::Welcome>(&frame);
                let _ = decode::<super::super::Numbered<Request<TokioRuntime>>>(&frame);
            }
        }
    }
}
