//! A fault stops only itself (promise P9), and is seen while it lasts (P10): something bad at the head
//! of each queue, among healthy neighbours.

mod due_rooms;
mod herd;
mod incoming;
mod outbox;
