//! Deliberate faults, each of which breaks a promise: tests put one in force to show that they
//! would find it.
//!
//! Only with the feature `failpoints`, which no program that is shipped is built with; without it
//! every question is answered `false` at compile time.

/// The fail points, and the list of all of them.
macro_rules! failpoints {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// One way to break a promise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failpoint {
            $($(#[$doc])* $name,)+
        }

        impl Failpoint {
            /// Every one.
            pub const ALL: [Failpoint; [$(stringify!($name)),+].len()] = [$(Failpoint::$name,)+];
        }
    };
}

failpoints! {
    /// A job is acked when its ticket is sent, without waiting for the confirm.
    AckBeforeConfirm,
    /// A job is acked without a ticket.
    TicketSkipped,
    /// A ticket whose confirm failed is not published again.
    TicketGivenUp,
    /// A delivery is settled twice.
    SettledTwice,
    /// Tickets are polled whatever the lease says.
    LeaseIgnored,
    /// A redelivered ticket is polled as if nobody had polled it before.
    RedeliveryUnnoticed,
    /// A ticket's age is counted from when it was delivered.
    AgeForgotten,
    /// A job is acked before its copy in a retry queue is confirmed.
    AckBeforeRetried,
    /// A publish that the broker refused is taken for confirmed.
    RefusedIsConfirmed,
    /// A job is submitted although its deadline has passed meanwhile.
    DeadlineIgnored,
    /// A task is polled twice as often as the API allows.
    SpacingHalved,
    /// A job in a retry queue forgets what it has been through.
    HistoryForgotten,
    /// An in-flight permit is not given back.
    PassLeaked,
    /// Calls are made whatever the guard permits.
    PermitIgnored,
    /// A new leader takes the account for good, whatever the record says.
    GuardForgotten,
    /// The guard's record is acked before its successor is written.
    RecordAckedFirst,
    /// A leaving replica does not wait for its submissions.
    DrainHurried,
    /// Three wrong task ids within a minute trip the guard, whatever their share.
    CountedWrongIds,
    /// Retry budgets run on while calls are forbidden or withheld.
    BudgetRunsOn,
    /// The leader has no budgets.
    BudgetIgnored,
    /// Replicas do not report what they spend.
    SpendingUnreported,
    /// The heaviest lane is nearly always served first.
    LightLanesStarve,
    /// A job that others have let pass counts twice for its publisher.
    PublisherCountedTwice,
    /// A type's time-out runs on while nothing may be asked for.
    TimeoutRunsOn,
    /// An unknown code of createTask ends its job at once.
    UnknownIsFinal,
    /// The ages of open tasks follow the wall clock.
    WallClockAges,
    /// A ticket is handed over before its task may be polled again.
    HandedOverEarly,
    /// The embedded broker confirms a message before the batch that holds it is stored.
    ConfirmBeforeStored,
    /// The embedded broker hands a message out before it is stored that it has left.
    DeliveryBeforeStored,
}

impl Failpoint {
    /// Whether it is in force on this thread.
    #[cfg(not(feature = "failpoints"))]
    #[inline]
    pub(crate) const fn in_force(self) -> bool {
        false
    }

    /// Whether it is in force on this thread.
    #[cfg(feature = "failpoints")]
    pub(crate) fn in_force(self) -> bool {
        IN_FORCE.get() == Some(self)
    }

    /// Puts one in force on this thread, and on no other; `None`: all is well again.
    #[cfg(feature = "failpoints")]
    pub fn put_in_force(failpoint: Option<Failpoint>) {
        IN_FORCE.set(failpoint);
    }
}

#[cfg(feature = "failpoints")]
thread_local! {
    static IN_FORCE: std::cell::Cell<Option<Failpoint>> = const { std::cell::Cell::new(None) };
}
