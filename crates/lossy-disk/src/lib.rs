//! For tests: a disk in memory, on which SQLite keeps the files of one folder. Its power fails at a
//! chosen operation; what was not synced is then there, or not, or in part.
//!
//! A file has what programs see of it, and what is stored. Each write and each change of length is
//! pending until its file is synced. When the power fails, each sector of each pending write is
//! stored or not, by a seeded choice of its own, and a file may have its new length without its
//! new bytes. The folder's entries are pending, too: until a new journal or log is synced for the
//! first time, or a file is deleted with a sync of the folder, as SQLite does it on Unix.

mod vfs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// A disk. Clones are the same.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, File>,
    /// The folder's entries as programs see them, and as they are stored.
    seen: BTreeMap<String, u64>,
    stored: BTreeMap<String, u64>,
    last_file: u64,
    /// Changes so far.
    operations: u64,
    fails_at: Option<u64>,
    is_off: bool,
    /// The file in whose change the power failed.
    failed_in: Option<String>,
    lies: bool,
    fails_next_sync: bool,
}

#[derive(Debug, Default)]
struct File {
    name: String,
    seen: Vec<u8>,
    stored: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// The disk takes nothing: it has no power, or fails a sync.
#[derive(Debug)]
struct Refused;

/// Disks by their folder.
static DISKS: Mutex<BTreeMap<String, Weak<Mutex<State>>>> = Mutex::new(BTreeMap::new());

impl Disk {
    /// An empty disk for all files that SQLite opens in this folder from now on, under the default
    /// file system of this process. Others are where they always are.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self::with(State::default(), folder)
    }

    fn with(state: State, folder: &Path) -> Self {
        vfs::register();
        let disk = Self(Arc::new(Mutex::new(state)));
        let mut disks = DISKS.lock();
        disks.retain(|_, disk| disk.strong_count() > 0);
        // As SQLite names it.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        disks.insert(folder.display().to_string(), Arc::downgrade(&disk.0));
        disk
    }

    /// The disk that has a path, with the file's name on it.
    fn of(path: &str) -> Option<(Self, &str)> {
        let (folder, name) = path.rsplit_once('/')?;
        Some((Self(DISKS.lock().get(folder)?.upgrade()?), name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// The power fails at so many changes from now, 1 being the next one: writes, changes of
    /// length, syncs, files made and deleted.
    pub fn cut_power_at(&self, operation: u64) {
        let mut state = self.lock();
        state.fails_at = Some(state.operations + operation);
    }

    /// The power fails now.
    pub fn cut_power(&self) {
        self.lock().is_off = true;
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// The file in whose change the power has failed, if it was in one.
    #[must_use]
    pub fn failed_in(&self) -> Option<String> {
        self.lock().failed_in.clone()
    }

    /// From now on syncs succeed and store nothing, as on a disk that lies.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// The next sync fails, and what it was for is never stored, though programs still see it: as
    /// Linux does when a disk takes its pages no more.
    pub fn fail_next_sync(&self) {
        self.lock().fails_next_sync = true;
    }

    /// What is left of a disk without power, as a disk for another folder. Where nothing was
    /// pending, it is a copy.
    #[must_use]
    pub fn left(&self, seed: u64, folder: &Path) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let state = self.lock();
        // A cache that was written out hardly, by half, or nearly in full.
        let share = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        let mut left = State { last_file: state.last_file, ..State::default() };
        let names: BTreeSet<_> = state.seen.keys().chain(state.stored.keys()).collect();
        for name in names {
            let entries = if rng.random_bool(share) { &state.seen } else { &state.stored };
            if let Some(id) = entries.get(name) {
                left.stored.insert(name.clone(), *id);
            }
        }
        left.seen = left.stored.clone();
        for (name, id) in &left.seen {
            let bytes = state.files[id].left(share, rng);
            let (name, seen) = (name.clone(), bytes.clone());
            left.files.insert(*id, File { name, seen, stored: bytes, pending: Vec::new() });
        }
        drop(state);
        Self::with(left, folder)
    }
}

impl State {
    /// A change begins. Where the power fails at it, it may still be in part.
    fn begin(&mut self, name: &str) -> Result<(), Refused> {
        self.end()?;
        self.operations += 1;
        if self.fails_at == Some(self.operations) {
            self.is_off = true;
            self.failed_in = Some(name.to_owned());
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Refused> {
        if self.is_off { Err(Refused) } else { Ok(()) }
    }

    /// The file of a name, and whether it was made for that.
    fn open(&mut self, name: &str) -> Result<(u64, bool), Refused> {
        if let Some(id) = self.seen.get(name) {
            return self.end().map(|()| (*id, false));
        }
        self.begin(name)?;
        self.last_file += 1;
        self.files.insert(self.last_file, File { name: name.to_owned(), ..File::default() });
        self.seen.insert(name.to_owned(), self.last_file);
        self.end().map(|()| (self.last_file, true))
    }

    fn delete(&mut self, name: &str, syncs_folder: bool) -> Result<(), Refused> {
        self.begin(name)?;
        self.seen.remove(name);
        self.end()?;
        if syncs_folder {
            self.sync_folder();
        }
        Ok(())
    }

    fn sync_folder(&mut self) {
        if !self.lies {
            self.stored = self.seen.clone();
        }
    }

    fn change(&mut self, id: u64, pending: Pending) -> Result<(), Refused> {
        self.begin(&self.files[&id].name.clone())?;
        if let Some(file) = self.files.get_mut(&id) {
            pending.apply(&mut file.seen);
            file.pending.push(pending);
        }
        self.end()
    }

    fn sync(&mut self, id: u64, folder_too: bool) -> Result<(), Refused> {
        self.begin(&self.files[&id].name.clone())?;
        self.end()?;
        let Some(file) = self.files.get_mut(&id).filter(|_| !self.lies) else { return Ok(()) };
        let pending = std::mem::take(&mut file.pending);
        if std::mem::take(&mut self.fails_next_sync) {
            return Err(Refused);
        }
        pending.into_iter().for_each(|pending| pending.apply(&mut file.stored));
        if folder_too {
            self.sync_folder();
        }
        Ok(())
    }
}

impl Pending {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Pending::Write { at, bytes } => write(file, *at, bytes),
            Pending::Length(length) => file.resize(*length, 0),
        }
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

impl File {
    fn left(&self, share: f64, rng: &mut StdRng) -> Vec<u8> {
        let mut left = self.stored.clone();
        for pending in &self.pending {
            let Pending::Write { at, bytes } = pending else {
                if rng.random_bool(share) {
                    pending.apply(&mut left);
                }
                continue;
            };
            let mut done = 0;
            while done < bytes.len() {
                let from = at + done;
                let next = bytes.len().min(done + SECTOR - from % SECTOR);
                if rng.random_bool(share) {
                    write(&mut left, from, &bytes[done..next]);
                }
                done = next;
            }
            // The length is stored apart from the bytes.
            if left.len() < at + bytes.len() && rng.random_bool(share) {
                left.resize(at + bytes.len(), 0);
            }
        }
        left
    }
}
