//! The disk under the cache goes wrong, for real: it is full, broken, read-only, gone or replaced, and system calls on it fail. Pulls go on,
//! an operator is told, and what is pulled is kept again as soon as that is possible (promise P6; fault matrix, 28 to 32).

mod calls;
mod catalog;
mod folder;
mod late;
mod power;
mod room;
