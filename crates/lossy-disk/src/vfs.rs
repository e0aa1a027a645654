//! The disks as a file system of SQLite's. It is the default one of the process, and hands every
//! path that is on no disk on to the one that was the default before.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use rusqlite::ffi::{
    SQLITE_CANTOPEN, SQLITE_IOCAP_POWERSAFE_OVERWRITE, SQLITE_IOERR_DELETE, SQLITE_IOERR_FSYNC,
    SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE, SQLITE_NOTFOUND,
    SQLITE_OK, SQLITE_OPEN_MAIN_JOURNAL, SQLITE_OPEN_SUPER_JOURNAL, SQLITE_OPEN_WAL, sqlite3_file,
    sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
};

use super::{Disk, Pending, Refused};

/// As that of SQLite on Unix.
const SECTOR_SIZE: c_int = 4_096;

/// An open file, in memory that SQLite gives.
#[repr(C)]
struct OpenFile {
    base: sqlite3_file,
    handle: *mut Handle,
}

struct Handle {
    disk: Disk,
    id: u64,
    /// Its first sync stores the folder's entries, too.
    syncs_folder: bool,
}

/// The file system that was the default before. It lives as long as the process.
struct Base(*mut sqlite3_vfs);

// SAFETY: SQLite's own file systems are used from any thread, and the pointer never changes.
unsafe impl Send for Base {}
// SAFETY: the same.
unsafe impl Sync for Base {}

static BASE: OnceLock<Base> = OnceLock::new();

fn base() -> *mut sqlite3_vfs {
    BASE.get().map_or(ptr::null_mut(), |base| base.0)
}

/// Makes the disks the default file system of this process.
pub(crate) fn register() {
    BASE.get_or_init(|| {
        // SAFETY: a null name asks for the default one, which SQLite has on this platform; it is
        // never freed. What is registered is leaked, so it lives as long.
        unsafe {
            let base = sqlite3_vfs_find(ptr::null());
            // Whatever is not about files is done by the functions of the other one.
            let mut own = *base;
            own.iVersion = own.iVersion.min(2);
            own.szOsFile = own.szOsFile.max(size_of::<OpenFile>() as c_int);
            own.pNext = ptr::null_mut();
            own.zName = c"lossy-disk".as_ptr();
            own.xOpen = Some(open);
            own.xDelete = Some(delete);
            own.xAccess = Some(access);
            sqlite3_vfs_register(Box::into_raw(Box::new(own)), 1);
            Base(base)
        }
    });
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// The disk that has a path, and the file's name there.
///
/// # Safety
/// `path` is null, or a string of C that outlives the result.
unsafe fn disk_of<'a>(path: *const c_char) -> Option<(Disk, &'a str)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    Disk::of(unsafe { CStr::from_ptr(path) }.to_str().ok()?)
}

/// # Safety
/// `file` was opened by [`open`], and not closed.
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a mut Handle {
    // SAFETY: as the caller says, it is an `OpenFile` with a handle. SQLite uses a file from one
    // thread at a time.
    unsafe { &mut *(*file.cast::<OpenFile>()).handle }
}

fn code(done: Result<(), Refused>, error: c_int) -> c_int {
    done.map_or(error, |()| SQLITE_OK)
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a path or null, room for a file of either kind, and a place for flags or
    // null.
    unsafe {
        let Some((disk, name)) = disk_of(name) else {
            return match (*base()).xOpen {
                Some(open) => open(base(), name, file, flags, out_flags),
                None => SQLITE_CANTOPEN,
            };
        };
        (*file).pMethods = ptr::null();
        let opened = disk.lock().open(name);
        let Ok((id, is_new)) = opened else { return SQLITE_CANTOPEN };
        let journals = SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL | SQLITE_OPEN_WAL;
        let syncs_folder = is_new && flags & journals != 0;
        (*file.cast::<OpenFile>()).handle = Box::into_raw(Box::new(Handle { disk, id, syncs_folder }));
        (*file).pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
        SQLITE_OK
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, syncs_folder: c_int) -> c_int {
    // SAFETY: SQLite gives a path.
    unsafe {
        match disk_of(name) {
            Some((disk, name)) => code(disk.lock().delete(name, syncs_folder != 0), SQLITE_IOERR_DELETE),
            None => (*base()).xDelete.map_or(SQLITE_OK, |delete| delete(base(), name, syncs_folder)),
        }
    }
}

unsafe extern "C" fn access(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a path, and a place for the answer.
    unsafe {
        let Some((disk, name)) = disk_of(name) else {
            return (*base()).xAccess.map_or(SQLITE_OK, |access| access(base(), name, flags, out));
        };
        *out = c_int::from(disk.lock().seen.contains_key(name));
        SQLITE_OK
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and uses it no more.
    drop(unsafe { Box::from_raw((*file.cast::<OpenFile>()).handle) });
    SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    out: *mut c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives an open file, and room for so many bytes.
    let (handle, out) =
        unsafe { (handle(file), slice::from_raw_parts_mut(out.cast::<u8>(), length as usize)) };
    let state = handle.disk.lock();
    if state.is_off {
        return SQLITE_IOERR_READ;
    }
    let bytes = state.files.get(&handle.id).map_or(&[][..], |file| &file.seen);
    let bytes = bytes.get(at as usize..).unwrap_or_default();
    let there = bytes.len().min(out.len());
    out[..there].copy_from_slice(&bytes[..there]);
    out[there..].fill(0);
    if there < out.len() { SQLITE_IOERR_SHORT_READ } else { SQLITE_OK }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives an open file, and so many bytes.
    let (handle, bytes) =
        unsafe { (handle(file), slice::from_raw_parts(bytes.cast::<u8>(), length as usize)) };
    let pending = Pending::Write { at: at as usize, bytes: bytes.to_vec() };
    code(handle.disk.lock().change(handle.id, pending), SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives an open file.
    let handle = unsafe { handle(file) };
    code(handle.disk.lock().change(handle.id, Pending::Length(length as usize)), SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite gives an open file.
    let handle = unsafe { handle(file) };
    let done = handle.disk.lock().sync(handle.id, handle.syncs_folder);
    handle.syncs_folder &= done.is_err();
    code(done, SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives an open file, and a place for the answer.
    unsafe {
        let handle = handle(file);
        let state = handle.disk.lock();
        *out = state.files.get(&handle.id).map_or(0, |file| file.seen.len() as sqlite3_int64);
    }
    SQLITE_OK
}

// The queue file has a lock of its own.
unsafe extern "C" fn lock(_: *mut sqlite3_file, _: c_int) -> c_int {
    SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *out = 0 };
    SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    SECTOR_SIZE
}

unsafe extern "C" fn device_characteristics(_: *mut sqlite3_file) -> c_int {
    SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
