//! What operators pin, and what that keeps from eviction. Which content it is follows from the catalog's tables; nothing in here
//! decides what is evicted.

use std::sync::PoisonError;

use rusqlite::Connection;

use super::blobs::Blobs;
use super::catalog::{Inner, contents, edges, pins};
use super::error::StoreError;
use super::health::Operation;
use super::name::Pin;

/// A pin, and what it keeps at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub pin: Pin,
    pub keeps: PinnedBytes,
}

/// How much content at rest is pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinnedBytes {
    pub bytes: u64,
    pub contents: u64,
}

/// Why pins were not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PinError {
    #[error("{0} is not pinned")]
    NotPinned(Pin),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All of these block.
impl Inner {
    /// Brings a pin back if the catalog does not have it.
    pub(super) fn review_pin(&self, pin: &Pin) {
        let known = self.read("read pins", |connection| pins::has(connection, pin));
        if known != Some(true) {
            let pin = pin.clone();
            self.write("write pin", move |connection| pins::set(connection, &pin));
        }
    }

    /// Pins something durably.
    pub(super) fn set_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let _claim = self.claims.claim(&self.refs.layout.pin(pin));
        self.refs.set_pin(pin).map_err(|error| StoreError::io(Operation::WriteRef, error))?;
        let pin = pin.clone();
        Ok(self.database.write(move |connection| pins::set(connection, &pin))?)
    }

    /// Takes a pin away durably.
    pub(super) fn remove_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let _claim = self.claims.claim(&self.refs.layout.pin(pin));
        self.refs.remove_pin(pin).map_err(|error| StoreError::io(Operation::RemoveRef, error))?;
        let pin = pin.clone();
        Ok(self.database.write(move |connection| pins::remove(connection, &pin))?)
    }
}

/// All of these block.
impl Blobs {
    pub(super) fn pins(&self) -> Result<Vec<Pinned>, PinError> {
        self.weigh(self.catalog.database.read(pins::all).map_err(StoreError::from)?)
    }

    pub(super) fn pin(&self, wanted: Vec<Pin>) -> Result<Vec<Pinned>, PinError> {
        // What is decided about at the moment is gone before the pin is set, not after.
        let _turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().try_for_each(|pin| self.catalog.set_pin(pin))?;
        self.weigh(wanted)
    }

    pub(super) fn unpin(&self, unwanted: &[Pin]) -> Result<Vec<Pinned>, PinError> {
        for pin in unwanted {
            if !self.catalog.database.read(|connection| pins::has(connection, pin)).map_err(StoreError::from)? {
                return Err(PinError::NotPinned(pin.clone()));
            }
        }
        let kept = self.weigh(unwanted.to_vec())?;
        unwanted.iter().try_for_each(|pin| self.catalog.remove_pin(pin))?;
        Ok(kept)
    }

    pub(super) fn pinned(&self) -> PinnedBytes {
        let (bytes, contents) = self.catalog.read("sum up what is pinned", pins::total).unwrap_or_default();
        PinnedBytes { bytes, contents }
    }

    fn weigh(&self, pins: Vec<Pin>) -> Result<Vec<Pinned>, PinError> {
        let weigh = |connection: &Connection| {
            let weighed = pins.into_iter().map(|pin| {
                let mut keeps = PinnedBytes::default();
                for digest in edges::closure(connection, pins::roots(connection, &pin)?)? {
                    if let Some(row) = contents::get(connection, &digest)? {
                        keeps.bytes += row.size;
                        keeps.contents += 1;
                    }
                }
                Ok(Pinned { pin, keeps })
            });
            weighed.collect()
        };
        Ok(self.catalog.database.examine(weigh).map_err(StoreError::from)?)
    }
}
