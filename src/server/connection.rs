//! One client's connection: what lies between a socket and hyper. It bounds how long a client may be silent, gives hyper's own
//! error answers the registry's form, sends from files, and closes so that a client always sees an end (FIN), never a reset.

mod guard;
mod linger;
mod outbox;
mod pace;

pub(super) use guard::{Guard, Limits, Turn};
pub(super) use linger::{Lingering, UNSENT_MAX_BYTES};
pub(super) use outbox::{Courier, Outbox, Receipt};
