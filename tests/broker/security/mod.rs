//! Who may reach the broker and how, on a real RabbitMQ: TLS, the users of `deploy/rabbitmq` and
//! what they may do, retention.

mod broker;
mod bytes;
mod full;
mod permissions;
mod refusals;
mod retention;
mod secured;
mod tls;
mod work;
