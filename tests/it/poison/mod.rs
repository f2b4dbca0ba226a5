//! A fault at the head of each queue stops only itself.

mod due_rooms;
mod incoming;
