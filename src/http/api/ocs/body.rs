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

/// Size of a piece, in bytes. The first one is not counted.
const PIECE: usize = 64 * 1024;

/// Bytes of the first piece to begin with: enough for most responses.
const USUAL: usize = 2 * 1024;

/// Writing fails when the client's share is used up.
pub(super) struct BodyWriter<'o> {
    pieces: VecDeque<Bytes>,
    piece: Piece,
    /// Opens a reservation for the next piece.
    open: &'o dyn Fn() -> Reservation,
}

struct Piece {
    bytes: Vec<u8>,
    /// Memory that the piece occupies until it is sent.
    _memory: Option<Reservation>,
}

impl<'o> BodyWriter<'o> {
    pub(super) fn new(open: &'o dyn Fn() -> Reservation) -> Self {
        let piece = Piece { bytes: Vec::with_capacity(USUAL), _memory: None };
        Self { pieces: VecDeque::new(), piece, open }
    }

    pub(super) fn into_body(mut self) -> Body {
        if self.pieces.is_empty() {
            return Body::from(self.piece.bytes);
        }
        self.pieces.push_back(Bytes::from_owner(self.piece));
        let left = self.pieces.iter().map(Bytes::len).sum();
        Body::new(Pieces { left, pieces: self.pieces })
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let mut memory = (self.open)();
        if !memory.extend(PIECE) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let next = Piece { bytes: Vec::with_capacity(PIECE), _memory: Some(memory) };
        let full = std::mem::replace(&mut self.piece, next);
        self.pieces.push_back(Bytes::from_owner(full));
        Ok(())
    }
}

impl io::Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.bytes.len() == PIECE {
            self.next_piece()?;
        }
        let space = PIECE - self.piece.bytes.len();
        let fitting = bytes.get(..space).unwrap_or(bytes);
        self.piece.bytes.extend_from_slice(fitting);
        Ok(fitting.len())
    }

    /// A list is tens of thousands of small writes.
    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while bytes.len() > PIECE - self.piece.bytes.len() {
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
        // The client may use a quarter: two pieces.
        let budget = ByteBudget::new(8 * PIECE);
        let text: Vec<u8> = (0..3 * PIECE).map(|index| b"abcdefg"[index % 7]).collect();
        let open = || budget.open(client);
        let mut writer = BodyWriter::new(&open);
        writer.write_all(&text).unwrap();
        let mut other = BodyWriter::new(&open);
        other.write_all(&text[..PIECE]).unwrap();
        assert!(other.write_all(b"x").is_err());
        let body = writer.into_body();
        assert_eq!(body.size_hint().exact(), Some(3 * 64 * 1024));
        assert!(other.write_all(b"x").is_err());
        assert_eq!(to_bytes(body, usize::MAX).await.unwrap(), text);
        assert!(other.write_all(b"x").is_ok());
    }
}
