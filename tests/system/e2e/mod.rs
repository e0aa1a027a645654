//! The whole path of a job on a real RabbitMQ: worker processes, the simulator as a process, and a
//! foreign publisher and consumer.

mod callbacks;
mod consumer_timeout;
mod foreign;
mod hostile;
mod kill;
mod logged;
mod operator;
mod readiness;
mod reconnect;
mod restart;
mod secrets;
mod share;
mod top;
