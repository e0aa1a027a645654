//! What is on the screen beside the fleet: what was typed.

use std::ops::ControlFlow;
use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::time::Instant;

use super::poller::PollResult;
use super::theme::Tones;

/// The time that a poll may take beside the interval.
const OLD: Duration = Duration::from_secs(3);

/// A table that can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Replicas,
    Types,
    Failures,
}

impl Panel {
    const ALL: [Panel; 3] = [Panel::Replicas, Panel::Types, Panel::Failures];
}

/// The picture's state.
pub(super) struct Screen {
    shot: PollResult,
    /// When it arrived.
    taken: Option<Instant>,
    /// From this age on the picture shows its age.
    old: Duration,
    /// What is shown while the picture is frozen.
    frozen: Option<PollResult>,
    pub(super) help: bool,
    /// Nobody types, so the keys are not shown.
    pub(super) still: bool,
    focus: Panel,
    offsets: [usize; 3],
    pub(super) tones: Tones,
}

impl Screen {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            shot: PollResult::default(),
            taken: None,
            old: OLD,
            frozen: None,
            help: false,
            still: false,
            focus: Panel::Failures,
            offsets: [0; 3],
            tones: Tones::new(colour),
        }
    }

    /// The same, for pictures that arrive at this interval.
    pub(super) fn every(self, interval: Duration) -> Self {
        Self { old: 2 * interval + OLD, ..self }
    }

    /// One picture, for nobody who types.
    pub(super) fn still(shot: PollResult) -> Self {
        Self { shot, still: true, ..Self::new(false) }
    }

    pub(super) fn take(&mut self, shot: PollResult) {
        self.shot = shot;
        self.taken = Some(Instant::now());
    }

    /// How old the picture is, where that is older than it should be. One that is frozen is so
    /// because it was wanted.
    pub(super) fn age(&self) -> Option<Duration> {
        let age = self.taken.filter(|_| !self.is_frozen())?.elapsed();
        (age > self.old).then_some(age)
    }

    pub(super) fn shot(&self) -> &PollResult {
        self.frozen.as_ref().unwrap_or(&self.shot)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    pub(super) fn is_focused(&self, panel: Panel) -> bool {
        !self.still && self.focus == panel
    }

    /// How many rows of a table are moved out of it, of so many, where so many fit.
    pub(super) fn offset(&self, panel: Panel, rows: usize, fit: usize) -> usize {
        self.offsets[panel as usize].min(rows.saturating_sub(fit))
    }

    /// Something was typed. `Break` ends it.
    pub(super) fn on_event(&mut self, event: &Event) -> ControlFlow<()> {
        let Event::Key(KeyEvent {
            code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, ..
        }) = event
        else {
            return ControlFlow::Continue(());
        };
        match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return ControlFlow::Break(()),
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return ControlFlow::Break(()),
            KeyCode::Char('p' | ' ') => {
                self.frozen = if self.frozen.is_some() { None } else { Some(self.shot.clone()) };
            }
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Panel::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|offset| offset.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|offset| offset + 1),
            KeyCode::PageUp => self.scroll(|offset| offset.saturating_sub(10)),
            KeyCode::PageDown => self.scroll(|offset| offset + 10),
            KeyCode::Home => self.scroll(|_| 0),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn turn(&mut self, by: usize) {
        let place = Panel::ALL.iter().position(|panel| *panel == self.focus).unwrap_or(0);
        self.focus = Panel::ALL[(place + by) % Panel::ALL.len()];
    }

    /// No further than there are rows, so that the way back is as long as the way there.
    fn scroll(&mut self, to: impl Fn(usize) -> usize) {
        let rows = self.shot().fleet.as_ref().map_or(0, |fleet| match self.focus {
            Panel::Replicas => fleet.replicas.len(),
            Panel::Types => fleet.types.len().max(fleet.classes.len() + 1),
            Panel::Failures => fleet.latest_failures.len(),
        });
        let offset = &mut self.offsets[self.focus as usize];
        *offset = to(*offset).min(rows.saturating_sub(1));
    }
}
