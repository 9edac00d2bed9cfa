//! Sends a notification as a back end.
//!
//! ```text
//! cargo run --release                                                     # a server, in another terminal
//! cargo run -p tidewire-client --example send_notification
//! cargo run -p tidewire-client --example send_notification -- http://127.0.0.1:8080 ada
//! ```
//!
//! A back end on the server's machine needs no token. From elsewhere, set `SERVICE_TOKEN` to a
//! token with the scope `service`, and pass it to the builder: `.token(token)`.

use std::env;

use tidewire_client::{Client, NotificationType, Notify};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or("http://127.0.0.1:8080".to_owned());
    let user = arguments.next().unwrap_or("ada".to_owned());

    let client = Client::new(url)?;
    let paid = Notify::user(user, NotificationType::PaymentReceived, "Payment received");
    let sent = client.notify(paid.body("0.5 ETH from Grace")).await?;
    println!("sent to {} inbox", sent.recipients);
    Ok(())
}
