//! Tells from the broker's confirms what became of each event.
//!
//! Particular to tasks: only this model needs it. The broker returns an event that no queue takes
//! right before it confirms it, but lapin (4.12.3, `acknowledgement.rs`) attaches what was returned
//! to the confirm that it completes next, whosever that is: of several that are confirmed together,
//! to any.

use std::collections::HashSet;

use contract::metrics::PublishResult;
use lapin::{Confirmation, message::BasicReturnMessage, types::ShortString};
use tokio::sync::oneshot;

/// What the broker said of an event.
pub struct Answered {
    /// Id of its message.
    pub message_id: Option<ShortString>,
    /// The confirm, which may carry another event.
    pub confirmation: lapin::Result<Confirmation>,
    /// Where the result goes; nobody may be listening any more.
    pub done: oneshot::Sender<PublishResult>,
}

/// Ids of events that were returned and whose own confirm has not been seen yet.
#[derive(Debug, Default)]
pub struct Returned(HashSet<ShortString>);

impl Returned {
    /// What became of events whose confirms were completed together.
    ///
    /// All are looked at before any is believed: the confirm of a returned event is completed after
    /// the one that carries it, or is the same.
    pub fn results(&mut self, answered: &[Answered]) -> Vec<PublishResult> {
        for answer in answered {
            let id = carried(&answer.confirmation).and_then(message_id);
            self.0.extend(id.cloned());
        }
        answered.iter().map(|answer| self.result(answer)).collect()
    }

    fn result(&mut self, answer: &Answered) -> PublishResult {
        let id = answer.message_id.as_ref();
        let was_returned = id.is_some_and(|id| self.0.remove(id));
        match &answer.confirmation {
            Ok(Confirmation::Ack(_) | Confirmation::NotRequested) if !was_returned => {
                PublishResult::Confirmed
            }
            Ok(_) => PublishResult::Refused,
            Err(error) => {
                log::debug!("publish failed: {error}");
                PublishResult::Unavailable
            }
        }
    }
}

/// The message that came with a confirm.
const fn carried(confirmation: &lapin::Result<Confirmation>) -> Option<&BasicReturnMessage> {
    match confirmation {
        Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) => returned.as_ref(),
        Ok(Confirmation::NotRequested) | Err(_) => None,
    }
}

fn message_id(message: &BasicReturnMessage) -> Option<&ShortString> {
    message.properties.message_id().as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::{BasicProperties, message::Delivery};

    fn answered(id: &str, confirmation: Confirmation) -> Answered {
        Answered {
            message_id: Some(id.into()),
            confirmation: Ok(confirmation),
            done: oneshot::channel().0,
        }
    }

    fn carrying(id: &str) -> Confirmation {
        let mut delivery = Delivery::mock(0, "".into(), "s".into(), false, Vec::new());
        delivery.properties = BasicProperties::default().with_message_id(id.into());
        Confirmation::Ack(Some(BasicReturnMessage {
            delivery,
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
        }))
    }

    #[test]
    fn who_was_returned_is_refused_whichever_confirm_carried_the_message() {
        let mut returned = Returned::default();
        let together = [
            answered("lost", Confirmation::Ack(None)),
            answered("kept", carrying("lost")),
        ];
        let results = returned.results(&together);
        assert_eq!(results, [PublishResult::Refused, PublishResult::Confirmed]);
        // The other order: the message comes before its own confirm.
        let results = returned.results(&[answered("kept-2", carrying("lost-2"))]);
        assert_eq!(results, [PublishResult::Confirmed]);
        let results = returned.results(&[answered("lost-2", Confirmation::Ack(None))]);
        assert_eq!(results, [PublishResult::Refused]);
        assert!(returned.0.is_empty());
    }

    #[test]
    fn a_full_queue_refuses_without_a_return() {
        let full = [answered("full", Confirmation::Nack(None))];
        assert_eq!(Returned::default().results(&full), [PublishResult::Refused]);
    }
}
