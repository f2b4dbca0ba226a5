//! The body of a response: written in pieces, each of which takes its memory from the client's share
//! until it is sent.
//!
//! [`Envelope`](super::Envelope) writes what handlers return into a [`BodyWriter`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::super::byte_budget::Reservation;

/// Size of the first piece, in bytes, which is not counted.
const FIRST: usize = 64 * 1024;

/// Size of the others, in bytes: so large that the allocator returns their memory to the system.
const PIECE: usize = 1024 * 1024;

/// Bytes that are counted at once.
const STEP: usize = 64 * 1024;

/// Bytes of the first piece to begin with: enough for most responses.
const USUAL: usize = 2 * 1024;

/// Writing fails with [`OutOfMemory`](io::ErrorKind::OutOfMemory) while other responses occupy the
/// memory, and with [`FileTooLarge`](io::ErrorKind::FileTooLarge) if this one exceeds the client's
/// share.
pub(super) struct BodyWriter<'o> {
    pieces: VecDeque<Bytes>,
    piece: Piece,
    /// Bytes that are counted, in all pieces.
    occupied: usize,
    /// Opens a reservation for the next piece.
    open: &'o dyn Fn() -> Reservation,
}

struct Piece {
    bytes: Vec<u8>,
    /// How many bytes may be written.
    counted: usize,
    /// The memory that they occupy until they are sent; `None` for the first piece.
    memory: Option<Reservation>,
}

impl<'o> BodyWriter<'o> {
    pub(super) fn new(open: &'o dyn Fn() -> Reservation) -> Self {
        let piece = Piece { bytes: Vec::with_capacity(USUAL), counted: FIRST, memory: None };
        Self { pieces: VecDeque::new(), piece, occupied: 0, open }
    }

    pub(super) fn into_body(mut self) -> Body {
        if self.pieces.is_empty() {
            return Body::from(self.piece.bytes);
        }
        self.pieces.push_back(Bytes::from_owner(self.piece));
        let left = self.pieces.iter().map(Bytes::len).sum();
        Body::new(Pieces { left, pieces: self.pieces })
    }

    /// Counts more bytes, in the next piece if this one is full.
    fn make_room(&mut self) -> io::Result<()> {
        let Piece { counted, memory, .. } = &mut self.piece;
        match memory {
            Some(memory) if *counted < PIECE => {
                reserve(memory, &mut self.occupied)?;
                *counted += STEP;
            }
            Some(_) | None => {
                let mut memory = (self.open)();
                reserve(&mut memory, &mut self.occupied)?;
                let bytes = Vec::with_capacity(PIECE);
                let next = Piece { bytes, counted: STEP, memory: Some(memory) };
                let full = std::mem::replace(&mut self.piece, next);
                self.pieces.push_back(Bytes::from_owner(full));
            }
        }
        Ok(())
    }
}

fn reserve(memory: &mut Reservation, occupied: &mut usize) -> io::Result<()> {
    if *occupied + STEP > memory.share() {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    if !memory.extend(STEP) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    *occupied += STEP;
    Ok(())
}

impl io::Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.space() == 0 {
            self.make_room()?;
        }
        let fitting = bytes.get(..self.piece.space()).unwrap_or(bytes);
        self.piece.bytes.extend_from_slice(fitting);
        Ok(fitting.len())
    }

    /// A list is tens of thousands of small writes.
    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while bytes.len() > self.piece.space() {
            let written = self.write(bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        self.piece.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Piece {
    fn space(&self) -> usize {
        self.counted - self.bytes.len()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body of known length, whose memory is released piece by piece.
struct Pieces {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, Bytes::len);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::IpAddr;

    use axum::body::to_bytes;

    use super::super::super::byte_budget::ByteBudget;
    use super::*;

    #[tokio::test]
    async fn pieces_occupy_memory_until_they_are_sent() {
        let client = IpAddr::from([192, 0, 2, 1]);
        // The client may use a quarter: besides the first piece, the others of this text.
        let budget = ByteBudget::new(4 * (2 * PIECE + STEP));
        let length = FIRST + 2 * PIECE + STEP;
        let text: Vec<u8> = (0..length).map(|index| b"abcdefg"[index % 7]).collect();
        let open = || budget.open(client);
        let mut writer = BodyWriter::new(&open);
        writer.write_all(&text).unwrap();
        let failure = |written: io::Result<()>| written.map_err(|error| error.kind());
        assert_eq!(failure(writer.write_all(b"x")), Err(io::ErrorKind::FileTooLarge));
        let mut other = BodyWriter::new(&open);
        other.write_all(&text[..FIRST]).unwrap();
        assert_eq!(failure(other.write_all(b"x")), Err(io::ErrorKind::OutOfMemory));
        let body = writer.into_body();
        assert_eq!(body.size_hint().exact(), u64::try_from(length).ok());
        assert!(other.write_all(b"x").is_err());
        assert_eq!(to_bytes(body, usize::MAX).await.unwrap(), text);
        assert!(other.write_all(b"x").is_ok());
    }
}
