//! The Rust client against the server, through a link that is cut, goes silent, or closes at a
//! frame.

mod calls;
mod identity;
mod streams;

use tidewire_client::{Client, ConnectionState, Error, Event, Gap, Message, Payload, Subscription};
use tidewire_tests::{Link, Server, within};

/// A server, and a link to it.
async fn linked() -> (Server, Link) {
    let server = Server::start().await;
    let link = Link::start(server.address()).await;
    (server, link)
}

fn url(link: &Link) -> String {
    format!("http://{}", link.address())
}

/// Waits for a state.
async fn state(client: &Client, is_reached: impl Fn(&ConnectionState) -> bool) -> ConnectionState {
    let mut states = client.states();
    let reached = within(
        "a state of the client",
        states.wait_for(|state| is_reached(state)),
    )
    .await;
    reached.unwrap().clone()
}

async fn event<T: Payload>(subscription: &mut Subscription<T>) -> Result<Event<T>, Error> {
    let event = within("an event", subscription.next()).await;
    event.expect("the stream goes on")
}

async fn message<T: Payload + std::fmt::Debug>(subscription: &mut Subscription<T>) -> Message<T> {
    match event(subscription).await.unwrap() {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

async fn gap<T: Payload + std::fmt::Debug>(subscription: &mut Subscription<T>) -> Gap {
    match event(subscription).await.unwrap() {
        Event::Gap(gap) => gap,
        other => panic!("{other:?}"),
    }
}

/// The error that ends a subscription.
async fn end<T: Payload + std::fmt::Debug>(subscription: &mut Subscription<T>) -> Error {
    let error = event(subscription).await.unwrap_err();
    assert!(within("the end", subscription.next()).await.is_none());
    error
}
