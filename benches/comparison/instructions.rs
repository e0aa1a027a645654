//! How many instructions a job costs ours, beside `minimal --ticket`: a figure that does not hang
//! on how busy a machine is, so that a merge can be held to it. Run by `make instructions`.

use std::process::ExitCode;
use std::time::Duration;

use crate::candidate::Candidate;
use crate::load::Load;
use crate::run::Run;
use crate::setup::Setup;

/// Instructions per job, ours by minimal+ticket.
const MOST: f64 = 1.3;
/// Each number of jobs is offered in the same time, so that the difference holds what jobs cost and
/// nothing of what seconds do, or a start. Far apart, since a start of ours differs by some
/// millions of instructions from the next.
const FEW_JOBS: usize = 100;
const MANY_JOBS: usize = 1_500;
const OFFERED_IN: Duration = Duration::from_secs(20);

/// Counts, prints, and fails where ours costs too much.
pub(crate) async fn compare(setup: &Setup) -> ExitCode {
    let mut per_job = Vec::new();
    for candidate in [Candidate::Ticket, Candidate::Ours] {
        match count(setup, candidate).await {
            Ok(instructions) => {
                println!("{}: {instructions:.0} instructions a job", candidate.name());
                per_job.push(instructions);
            }
            Err(reason) => {
                println!("{}: FAILED: {reason}", candidate.name());
                return ExitCode::FAILURE;
            }
        }
    }
    let ratio = per_job[1] / per_job[0];
    let verdict = if ratio <= MOST { "holds" } else { "BROKEN" };
    println!("{verdict}: ours / minimal+ticket = {ratio:.3}, at most {MOST}");
    if ratio <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Instructions of one job more.
async fn count(setup: &Setup, candidate: Candidate) -> Result<f64, String> {
    let few = run(setup, candidate, FEW_JOBS).await?;
    let many = run(setup, candidate, MANY_JOBS).await?;
    println!("{}: {few:.0} for {FEW_JOBS} jobs, {many:.0} for {MANY_JOBS}", candidate.name());
    Ok((many - few) / (MANY_JOBS - FEW_JOBS) as f64)
}

/// Instructions of a whole run.
async fn run(setup: &Setup, candidate: Candidate, jobs: usize) -> Result<f64, String> {
    let load = Load::of(jobs).offered(jobs as u32 / OFFERED_IN.as_secs() as u32);
    let folder = setup.folder().join(format!("instructions/{}-{jobs}", candidate.name()));
    let mut run = Run::set(setup, "instructions", candidate, &load, folder).await;
    let counts = run.ground.folder.join("callgrind.out");
    let runner =
        ["valgrind", "--quiet", "--tool=callgrind", &format!("--callgrind-out-file={}", counts.display())];
    run.ground.under = runner.map(str::to_owned).to_vec();
    let worked = run.work(setup, None).await;
    run.namespace.remove().await;
    worked?;
    let counts =
        std::fs::read_to_string(&counts).map_err(|error| format!("callgrind left no counts: {error}"))?;
    let total = counts.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok());
    total.ok_or_else(|| "callgrind's counts have no total".to_owned())
}
