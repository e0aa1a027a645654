//! The output: what is in it at the start, and what is added. A job whose row is in it is done.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::lines::{IdHashes, LineSet};
use super::row::{Row, RowFormat, Written};
use crate::broker::sqlite::beside;
use crate::cli::CommandError;

/// A row holds an outcome, with the job that it is about. In bytes.
const MOST_ROW: u64 = 16 << 20;
/// Buffer for reading rows.
const READ_BUFFER: usize = 256 << 10;

/// The file, with its writer at its end.
#[derive(Debug)]
pub(super) struct OutcomesFile {
    path: PathBuf,
    file: Arc<File>,
    format: RowFormat,
}

/// How the jobs have ended that are done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Solved.
    pub(super) solved: u64,
    /// Failed, by class.
    pub(super) failed: BTreeMap<String, u64>,
    /// The lines that failed.
    pub(super) failed_lines: LineSet,
}

impl Tally {
    /// Counts a job.
    pub(super) fn add(&mut self, line: u64, class: Option<String>) {
        match class {
            None => self.solved += 1,
            Some(class) => {
                *self.failed.entry(class).or_default() += 1;
                self.failed_lines.insert(line);
            }
        }
    }

    /// All that are done.
    pub(super) fn done(&self) -> u64 {
        self.solved + self.failed_lines.len()
    }
}

impl OutcomesFile {
    /// Opens the output, makes it where there is none, cuts off a last row that was not finished,
    /// and reads the others.
    ///
    /// # Errors
    /// It cannot be written, or something else is in it.
    pub(super) fn open(path: &Path, format: RowFormat) -> Result<(Self, Tally, IdHashes), CommandError> {
        let cannot = |reason| CommandError::Usage(format!("cannot write '{}': {reason}", path.display()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(cannot)?;
        let output = Self { path: path.to_owned(), file: Arc::new(file), format };
        let (tally, hashes) = output.read()?;
        output.sync_folder().map_err(cannot)?;
        Ok((output, tally, hashes))
    }

    fn read(&self) -> Result<(Tally, IdHashes), CommandError> {
        let path = self.path.display().to_string();
        let foreign = |number: u64| {
            CommandError::Usage(format!(
                "line {number} of '{path}' is not what this command writes: choose another --out, or the format (--csv) that the batch began with"
            ))
        };
        let (mut tally, mut hashes) = (Tally::default(), IdHashes::default());
        let (mut end, mut number, mut row) = (0, 0, Vec::new());
        let mut reader = BufReader::with_capacity(READ_BUFFER, &*self.file);
        loop {
            row.clear();
            if (&mut reader).take(MOST_ROW).read_until(b'\n', &mut row)? == 0 {
                break;
            }
            number += 1;
            let Some(text) = row.strip_suffix(b"\n") else {
                if row.len() as u64 == MOST_ROW || !self.format.can_begin_with(&row) {
                    return Err(foreign(number));
                }
                break;
            };
            end += row.len() as u64;
            if number == 1 && !self.format.head().is_empty() {
                if text != self.format.head().as_bytes() {
                    return Err(foreign(number));
                }
                continue;
            }
            let Some(Written { line, class, id_hash }) = self.format.read(text) else {
                return Err(foreign(number));
            };
            if !hashes.insert(line, id_hash) {
                return Err(CommandError::Usage(format!(
                    "line {number} of '{path}' is the second one for line {line} of the input: remove one of them"
                )));
            }
            tally.add(line, class);
        }
        self.file.set_len(end)?;
        (&*self.file).seek(SeekFrom::Start(end))?;
        if end == 0 && !self.format.head().is_empty() {
            writeln!(&*self.file, "{}", self.format.head())?;
        }
        Ok((tally, hashes))
    }

    /// How rows are written.
    pub(super) fn format(&self) -> RowFormat {
        self.format
    }

    /// Adds rows, and gives them back when they are on the disk.
    ///
    /// # Errors
    /// They cannot be written; a part of them may have been.
    pub(super) async fn append(&self, rows: Vec<Row>) -> Result<Vec<Row>, CommandError> {
        if rows.is_empty() {
            return Ok(rows);
        }
        let file = Arc::clone(&self.file);
        let written = spawn_blocking(move || {
            let text: String = rows.iter().map(|row| row.text.as_str()).collect();
            (&*file).write_all(text.as_bytes()).and_then(|()| file.sync_data()).map(|()| rows)
        });
        written.await.map_err(CommandError::failed)?.map_err(CommandError::Output)
    }

    /// Brings the rows into the order of the input, where they are not. The file is replaced as a
    /// whole.
    ///
    /// # Errors
    /// It cannot be read or written; the file is as it was.
    pub(super) fn sort(&mut self) -> io::Result<()> {
        let mut places = self.places()?;
        if places.is_sorted() {
            return Ok(());
        }
        places.sort_unstable();
        let beside = beside(&self.path, ".sorted");
        let mut options = OpenOptions::new();
        let sorted = options.read(true).write(true).create(true).truncate(true).open(&beside)?;
        let mut writer = BufWriter::new(&sorted);
        if !self.format.head().is_empty() {
            writeln!(writer, "{}", self.format.head())?;
        }
        for (_, at, length) in places {
            (&*self.file).seek(SeekFrom::Start(at))?;
            io::copy(&mut (&*self.file).take(length), &mut writer)?;
        }
        writer.flush()?;
        drop(writer);
        sorted.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.sync_folder()?;
        self.file = Arc::new(sorted);
        Ok(())
    }

    /// Of each row: the job's line, where the row begins, and its length.
    fn places(&self) -> io::Result<Vec<(u64, u64, u64)>> {
        (&*self.file).rewind()?;
        let mut reader = BufReader::with_capacity(READ_BUFFER, &*self.file);
        let (mut places, mut at, mut row) = (Vec::new(), 0, Vec::new());
        loop {
            row.clear();
            let length = reader.read_until(b'\n', &mut row)? as u64;
            if length == 0 {
                return Ok(places);
            }
            let text = row.strip_suffix(b"\n").unwrap_or(&row);
            if let Some(written) = self.format.read(text) {
                places.push((written.line, at, length));
            }
            at += length;
        }
    }

    /// A new file is there after a loss of power only when its folder is on the disk too.
    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn row(line: u64, class: Option<&str>) -> Row {
        let status = if class.is_some() { "failed" } else { "solved" };
        let text = format!("{line},id-{line},{status},,{},,\n", class.unwrap_or_default());
        Row { line, class: class.map(str::to_owned), text }
    }

    fn open(path: &Path) -> Result<(OutcomesFile, Tally, IdHashes), CommandError> {
        OutcomesFile::open(path, RowFormat::Csv)
    }

    #[tokio::test]
    async fn a_torn_row_is_cut_off_and_the_rest_is_known() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("out.csv");
        let (output, tally, _) = open(&path).unwrap();
        assert_eq!(tally.done(), 0);
        output.append(vec![row(3, None), row(1, Some("proxy"))]).await.unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole, &b"2,id-2,solv"[..]].concat()).unwrap();
        let (mut output, tally, hashes) = open(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!((tally.solved, tally.failed["proxy"], hashes.len()), (1, 1, 2));
        output.append(vec![row(2, None)]).await.unwrap();
        output.sort().unwrap();
        output.append(vec![row(4, None)]).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(lines, ["line", "1", "2", "3", "4"]);
    }

    #[test]
    fn a_head_that_was_torn_is_written_anew() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("out.csv");
        fs::write(&path, "line,id").unwrap();
        drop(open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", RowFormat::Csv.head()));
    }

    #[test]
    fn what_is_not_of_this_command_stays_as_it_is() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("out");
        let double = format!("{}\n1,a,solved,,,,\n1,a,solved,,,,\n", RowFormat::Csv.head());
        for text in ["a note to keep\n", "a note", &double] {
            fs::write(&path, text).unwrap();
            let refused = open(&path).unwrap_err().to_string();
            assert!(refused.starts_with("line "), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
