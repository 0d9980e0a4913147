//! The messages.

use prost::Message;
use tonic::Code;

/// What a call asks the server to do. The default is an answer of no message and `OK`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Plan {
    /// Messages before the end.
    #[prost(uint32, tag = "1")]
    pub messages: u32,
    /// The code of the final status. In a chat, anything but `OK` ends it.
    #[prost(int32, tag = "2")]
    pub code: i32,
    /// Whether the status is the whole answer, in its headers ("trailers-only"). There is no message then.
    #[prost(bool, tag = "3")]
    pub at_once: bool,
    /// Where the call waits for [`crate::Server::release`].
    #[prost(enumeration = "Hold", tag = "4")]
    pub hold: i32,
    /// Whether the stream is reset where its status, or with `at_once` its headers, would come.
    #[prost(bool, tag = "5")]
    pub reset: bool,
}

/// Where a call waits to be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Hold {
    /// Nowhere.
    Nowhere = 0,
    /// Before the answer's headers. Not in a chat, whose headers do not wait for a plan.
    Headers = 1,
    /// After the messages, before the final status.
    Status = 2,
}

/// A message of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Tick {
    /// How many messages of its plan came before it.
    #[prost(uint32, tag = "1")]
    pub number: u32,
}

impl Plan {
    /// Messages, then `OK`.
    #[must_use]
    pub fn messages(messages: u32) -> Self {
        Self { messages, ..Self::default() }
    }

    /// A status alone, in trailers that follow headers.
    #[must_use]
    pub fn status(code: Code) -> Self {
        Self::messages(0).then(code)
    }

    /// A status alone, in the headers.
    #[must_use]
    pub fn status_at_once(code: Code) -> Self {
        Self { at_once: true, ..Self::status(code) }
    }

    /// The plan as it goes over the wire: not compressed, and its length before it.
    ///
    /// # Panics
    /// Never: a plan is short.
    #[must_use]
    pub fn framed(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a short message");
        [&[0], length.to_be_bytes().as_slice(), &message].concat()
    }

    /// The same with another final status.
    #[must_use]
    pub fn then(self, code: Code) -> Self {
        Self { code: code.into(), ..self }
    }

    /// The same with a reset in place of the status.
    #[must_use]
    pub fn then_reset(self) -> Self {
        Self { reset: true, ..self }
    }

    /// The same, waiting to be released.
    #[must_use]
    pub fn held(self, at: Hold) -> Self {
        Self { hold: at.into(), ..self }
    }
}
