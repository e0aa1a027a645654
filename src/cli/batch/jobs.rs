//! The jobs of a batch: the lines of a file, or images. A job's number never changes, so that a
//! batch can go on after any end.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lines::{IdHashes, LineSet, id_hash};
use crate::cli::CommandError;
use crate::cli::input::{Images, Lines, read_id};

/// Buffer for reading lines.
const READ_BUFFER: usize = 256 << 10;
/// A file with one of these endings is an image.
const IMAGES: [&str; 7] = ["png", "jpg", "jpeg", "gif", "bmp", "webp", "tiff"];

/// Where the jobs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Jobs {
    /// NDJSON. A job's number is that of its line.
    Ndjson(PathBuf),
    /// One job for each, numbered from 1.
    Images(Vec<PathBuf>),
}

/// One job.
#[derive(Debug)]
pub(super) struct NumberedJob {
    /// From 1.
    pub(super) line: u64,
    /// The message's body, or why there is none.
    pub(super) body: Result<Vec<u8>, String>,
    /// Of an image.
    name: Option<String>,
}

impl NumberedJob {
    /// The id that the job's outcome will have: its own, or one made of its place and its bytes,
    /// which is the same each time.
    pub(super) fn id(&self) -> String {
        let (own, bytes) = match &self.body {
            Ok(body) => (read_id(body).ok().flatten(), &body[..]),
            Err(_) => (None, &[][..]),
        };
        own.or_else(|| self.name.clone()).unwrap_or_else(|| {
            let hash = Sha256::digest(bytes);
            format!("line-{}-{:02x}{:02x}{:02x}{:02x}", self.line, hash[0], hash[1], hash[2], hash[3])
        })
    }
}

impl Jobs {
    /// Files whose names end as images' do are images; any other is one file of jobs.
    ///
    /// # Errors
    /// A file cannot be read a second time, or there are several files of jobs.
    pub(super) fn of(files: &[PathBuf]) -> Result<Self, CommandError> {
        if files.iter().all(|file| is_image(file)) {
            return Ok(Jobs::Images(files.to_vec()));
        }
        let [file] = files else {
            let other = files.iter().find(|file| !is_image(file)).map(|file| file.display().to_string());
            return Err(CommandError::Usage(format!(
                "'{}' is not an image by its name ({}): give one file of jobs, or images only",
                other.unwrap_or_default(),
                IMAGES.join(", ")
            )));
        };
        if file == Path::new("-") {
            return Err(CommandError::Usage(
                "'-': a batch that goes on reads its jobs again, so they must be in a file".to_owned(),
            ));
        }
        let found = file.metadata().map_err(|reason| CommandError::Input { path: shown(file), reason })?;
        if !found.is_file() {
            return Err(CommandError::Usage(format!(
                "'{}' is no regular file: a batch that goes on reads its jobs again",
                file.display()
            )));
        }
        Ok(Jobs::Ndjson(file.clone()))
    }

    /// The files.
    pub(super) fn files(&self) -> &[PathBuf] {
        match self {
            Jobs::Ndjson(file) => std::slice::from_ref(file),
            Jobs::Images(files) => files,
        }
    }

    /// A job as errors name it.
    pub(super) fn name(&self, line: u64) -> String {
        match self {
            Jobs::Ndjson(file) => format!("line {line} of {}", file.display()),
            Jobs::Images(_) => format!("image number {line}"),
        }
    }

    /// Counts the jobs, and compares those that are known with what is known of them.
    ///
    /// # Errors
    /// The input cannot be read; or, inside, the first job that is another one now.
    pub(super) fn survey(&self, known: &IdHashes) -> io::Result<Result<u64, u64>> {
        let (mut count, mut met) = (0, 0);
        let mut check = |line: u64, id: &dyn Fn() -> String| {
            count += 1;
            let Some(hash_of) = known.get(line) else { return true };
            met += 1;
            hash_of.is_none_or(|known| known == id_hash(&id()))
        };
        match self {
            Jobs::Ndjson(file) => {
                for job in NumberedLines::open(file)? {
                    let job = job?;
                    if !check(job.line, &|| job.id()) {
                        return Ok(Err(job.line));
                    }
                }
            }
            // An image's id is in its name: none need be read.
            Jobs::Images(files) => {
                for (line, file) in (1..).zip(files) {
                    if !check(line, &|| Images::name(file)) {
                        return Ok(Err(line));
                    }
                }
            }
        }
        Ok(if met == known.len() { Ok(count) } else { Err(known.last()) })
    }

    /// The jobs that are not in a set, in order.
    ///
    /// # Errors
    /// The input cannot be opened.
    pub(super) fn without(
        &self,
        done: LineSet,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<NumberedJob>> + Send>> {
        self.select(move |line| !done.contains(line))
    }

    /// The jobs that are in a set, in order.
    ///
    /// # Errors
    /// The input cannot be opened.
    pub(super) fn of_set(
        &self,
        wanted: &LineSet,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<NumberedJob>> + Send>> {
        let wanted = wanted.clone();
        self.select(move |line| wanted.contains(line))
    }

    fn select(
        &self,
        is_wanted: impl Fn(u64) -> bool + Send + 'static,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<NumberedJob>> + Send>> {
        Ok(match self {
            Jobs::Ndjson(file) => {
                let jobs = NumberedLines::open(file)?;
                Box::new(jobs.filter(move |job| job.as_ref().map_or(true, |job| is_wanted(job.line))))
            }
            Jobs::Images(files) => {
                let wanted = (1..).zip(files.clone()).filter(move |(line, _)| is_wanted(*line));
                Box::new(wanted.map(|(line, file)| Ok(image_job(line, file))))
            }
        })
    }
}

fn is_image(file: &Path) -> bool {
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| IMAGES.contains(&&*ending))
}

fn image_job(line: u64, file: PathBuf) -> NumberedJob {
    let (name, path) = (Images::name(&file), shown(&file));
    let body = match Images::new(vec![file], None, None).next() {
        Some(Ok(job)) => Ok(job.body.into()),
        Some(Err(bad)) => Err(format!("image '{path}' {}", bad.reason)),
        None => Err(format!("image '{path}' cannot be read")),
    };
    NumberedJob { line, body, name: Some(name) }
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// Every line that is not blank, as it is.
struct NumberedLines {
    lines: Lines<BufReader<File>>,
    broken: bool,
}

impl NumberedLines {
    fn open(file: &Path) -> io::Result<Self> {
        let reader = BufReader::with_capacity(READ_BUFFER, File::open(file)?);
        Ok(Self { lines: Lines::new(reader), broken: false })
    }
}

impl Iterator for NumberedLines {
    type Item = io::Result<NumberedJob>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.broken {
            let body = match self.lines.next_line() {
                Ok(None) => return None,
                Ok(Some(Ok(line))) if line.trim_ascii().is_empty() => continue,
                Ok(Some(body)) => body,
                // All lines after it would be missing.
                Err(error) => {
                    self.broken = true;
                    return Some(Err(error));
                }
            };
            return Some(Ok(NumberedJob { line: self.lines.number(), body, name: None }));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn hashes(known: &[(u64, &str)]) -> IdHashes {
        let mut hashes = IdHashes::default();
        for (line, id) in known {
            hashes.insert(*line, Some(id_hash(id)));
        }
        hashes
    }

    #[test]
    fn blank_lines_keep_their_numbers_and_bad_ones_are_jobs_too() {
        let file = file(b"{\"id\":\"a\"}\n\n  \nnope\r\n{\"id\":\"b\"}");
        let jobs = Jobs::of(&[file.path().to_owned()]).unwrap();
        let read: Vec<_> = jobs.without(LineSet::default()).unwrap().map(Result::unwrap).collect();
        let lines: Vec<_> = read.iter().map(|job| (job.line, job.body.clone().unwrap())).collect();
        assert_eq!(
            lines,
            [(1, b"{\"id\":\"a\"}".to_vec()), (4, b"nope".to_vec()), (5, b"{\"id\":\"b\"}".to_vec())]
        );
        assert_eq!((read[0].id().as_str(), read[1].id().as_str()), ("a", "line-4-ca3704aa"));
        assert_eq!(jobs.survey(&IdHashes::default()).unwrap(), Ok(3));
    }

    #[test]
    fn a_job_that_is_another_one_now_or_is_gone_is_found() {
        let file = file(b"{\"id\":\"a\"}\nnope\n");
        let jobs = Jobs::of(&[file.path().to_owned()]).unwrap();
        let survey = |known: &[(u64, &str)]| jobs.survey(&hashes(known)).unwrap();
        assert_eq!(survey(&[(1, "a"), (2, "line-2-ca3704aa")]), Ok(2));
        assert_eq!(survey(&[(1, "b")]), Err(1));
        assert_eq!(survey(&[(2, "line-2-00000000")]), Err(2));
        assert_eq!(survey(&[(1, "a"), (9, "b")]), Err(9));
    }

    #[test]
    fn images_are_known_by_their_names_and_do_not_mix_with_jobs() {
        let of = |names: &[&str]| Jobs::of(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        let images = of(&["x/a.png", "b.JPG"]).unwrap();
        assert_eq!(images, Jobs::Images(vec!["x/a.png".into(), "b.JPG".into()]));
        assert_eq!(images.survey(&hashes(&[(1, "a.png"), (2, "b.JPG")])).unwrap(), Ok(2));
        assert_eq!(images.survey(&hashes(&[(2, "c.jpg")])).unwrap(), Err(2));
        let refused = |names: &[&str]| of(names).unwrap_err().to_string();
        assert!(refused(&["a.png", "jobs.ndjson"]).contains("'jobs.ndjson' is not an image"));
        assert!(refused(&["-"]).contains("must be in a file"));
        assert!(refused(&["/dev/null"]).contains("no regular file"));
        assert!(refused(&["absent.ndjson"]).contains("absent.ndjson"));
    }
}
