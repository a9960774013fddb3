//! The agent's connection: its messages become whole transactions, our answers wait until it reads.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use podplane_config::link::{DataplaneLink, LinkError};
use podplane_config::v1::{EndpointFailure, FromDataplane};
use podplane_config::valid::{Assembler, OutOfOrder, Transaction};
use podplane_shm_ring::ring::PushError;

/// Messages read before control looks at anything else.
const MESSAGES: usize = 4096;
/// Answers that wait for an agent that does not read; with more it is given up.
const OUTBOX: usize = 1024;

/// Why an agent was given up. Nothing changes for the packets.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Messages that make no transaction.
    #[error("the agent does not follow the protocol: {0}")]
    Order(#[from] OutOfOrder),
    /// It does not read.
    #[error("the agent does not read its answers")]
    Deaf,
}

/// What the agent had to say.
#[derive(Debug)]
pub enum Heard {
    /// A whole transaction; there may be more.
    Transaction(Transaction),
    /// Messages, but no whole transaction yet; there is more.
    More,
    /// Nothing more for now.
    Nothing,
}

/// One agent's connection.
#[derive(Debug)]
pub struct Session {
    link: DataplaneLink,
    assembler: Assembler,
    outbox: VecDeque<FromDataplane>,
    /// Whether it has sent a full synchronisation.
    synced: bool,
    /// Its last transaction that was applied.
    in_force: Option<u64>,
    /// It has gone, but what it sent before is still to be read.
    leaving: bool,
}

impl Session {
    /// A connection that was just made.
    pub fn new(link: DataplaneLink) -> Session {
        Session {
            link,
            assembler: Assembler::default(),
            outbox: VecDeque::new(),
            synced: false,
            in_force: None,
            leaving: false,
        }
    }

    /// Reads on, up to the end of the next transaction.
    ///
    /// # Errors
    /// The agent has gone, or is broken: give it up.
    pub fn hear(&mut self) -> Result<Heard, SessionError> {
        match self.link.hush() {
            Err(LinkError::Closed) => self.leaving = true,
            other => other?,
        }
        for _ in 0..MESSAGES {
            match self.link.receive()? {
                None if self.leaving => return Err(LinkError::Closed.into()),
                None => return Ok(Heard::Nothing),
                Some(message) => {
                    if let Some(transaction) = self.assembler.message(message)? {
                        return Ok(Heard::Transaction(transaction));
                    }
                }
            }
        }
        Ok(Heard::More)
    }

    /// Whether a transaction may be applied: the first of a connection must be a full synchronisation, or what an
    /// earlier agent left would stay for ever.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn check(&self, transaction: &Transaction) -> Result<(), String> {
        if self.synced || transaction.is_full() {
            Ok(())
        } else {
            Err("the first transaction of a connection must be a full synchronisation".to_owned())
        }
    }

    /// Notes that a transaction is in force, and says so.
    ///
    /// # Errors
    /// The agent does not read, or has gone.
    pub fn applied(&mut self, transaction: &Transaction, failed: Vec<EndpointFailure>) -> Result<(), SessionError> {
        self.synced |= transaction.is_full();
        self.in_force = Some(transaction.generation);
        self.say(FromDataplane::Applied { generation: transaction.generation, failed })
    }

    /// Says again that the last transaction is in force, because other endpoints are without their devices now.
    ///
    /// # Errors
    /// The agent does not read, or has gone.
    pub fn applied_still(&mut self, failed: Vec<EndpointFailure>) -> Result<(), SessionError> {
        match self.in_force {
            Some(generation) => self.say(FromDataplane::Applied { generation, failed }),
            None => Ok(()),
        }
    }

    /// Says that a transaction was refused.
    ///
    /// # Errors
    /// The agent does not read, or has gone.
    pub fn refused(&mut self, transaction: &Transaction, reason: String) -> Result<(), SessionError> {
        self.say(FromDataplane::Refused { generation: transaction.generation, reason })
    }

    fn say(&mut self, message: FromDataplane) -> Result<(), SessionError> {
        if self.outbox.len() >= OUTBOX {
            return Err(SessionError::Deaf);
        }
        self.outbox.push_back(message);
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// The agent has gone or is broken.
    pub fn flush(&mut self) -> Result<(), SessionError> {
        while let Some(message) = self.outbox.front() {
            match self.link.send(message) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(LinkError::Push(PushError::Full)) => return Ok(()),
                Err(LinkError::Push(PushError::TooLong { .. })) => self.shorten(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// An answer that names too many failed endpoints for one message names fewer: all are in the status.
    fn shorten(&mut self) {
        match self.outbox.front_mut() {
            Some(FromDataplane::Applied { failed, .. }) if !failed.is_empty() => failed.truncate(failed.len() / 2),
            _ => drop(self.outbox.pop_front()),
        }
    }

    /// Whether answers wait for room.
    pub fn has_backlog(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Readable when the agent rang.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
