//! Ranks are threads here, each with its own mapping of the same file, as processes have.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{AbortHandle, CommError, CommId, PIECE_FLOATS, ShmComm, Wait};

/// Small deterministic numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Values whose sum depends on the order, made from what they belong to.
fn values(seed: u64, rank: usize, len: usize) -> Vec<f32> {
    let mut random = Random(seed.wrapping_mul(977) + rank as u64 * 31 + 1);
    (0..len).map(|_| (random.next() as f32 - 1e14) * 2_f32.powf(random.below(30) as f32)).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A rank whose test failed takes the others with it: they would wait for it.
struct AbortOnPanic(AbortHandle);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abort();
        }
    }
}

/// Runs `rank_main` once a rank, each on a thread, and gives what they returned in rank order.
fn with_ranks<T: Send>(
    world: usize,
    wait: Wait,
    first: u32,
    rank_main: impl Fn(ShmComm) -> T + Sync,
) -> Vec<T> {
    let (zero, id) = ShmComm::create_at(world, wait, first).unwrap();
    let (id, rank_main) = (&id, &rank_main);
    let run = move |comm: ShmComm| {
        let _guard = AbortOnPanic(comm.abort_handle());
        rank_main(comm)
    };
    thread::scope(|scope| {
        let join = move |rank| ShmComm::join(id, rank, world, wait).unwrap();
        let others: Vec<_> = (1..world).map(|rank| scope.spawn(move || run(join(rank)))).collect();
        let mut results = vec![run(zero)];
        results.extend(others.into_iter().map(|other| other.join().unwrap()));
        results
    })
}

/// Every rank of a run sees the same `op` (its number), with the same lengths.
fn run_op(comm: &mut ShmComm, op: u64) {
    let (world, rank) = (comm.world(), comm.rank());
    let mut random = Random(op * 7919 + 13);
    let len_max = if random.below(50) == 0 { 3 * PIECE_FLOATS + 5 } else { 700 };
    let len = match random.below(6) {
        0 => 0,
        1 => 1,
        2 => len_max,
        _ => random.below(len_max),
    };
    if random.below(2) == 0 {
        let mut x = values(op, rank, len);
        comm.all_reduce(&mut x).unwrap();
        let mut sum = values(op, 0, len);
        for rank in 1..world {
            sum.iter_mut().zip(values(op, rank, len)).for_each(|(sum, x)| *sum += x);
        }
        assert_eq!(bits(&x), bits(&sum), "all_reduce {op} of {len} on {rank}/{world}");
        return;
    }
    let rows = 1 + random.below(4);
    let cols: Vec<usize> = (0..world).map(|_| random.below(1 + len / rows)).collect();
    let mut out = vec![0.0; rows * cols.iter().sum::<usize>()];
    comm.all_gather_rows(&values(op, rank, rows * cols[rank]), rows, &cols, &mut out).unwrap();
    let all: Vec<_> = (0..world).map(|rank| values(op, rank, rows * cols[rank])).collect();
    let row = |row: usize| (0..world).map(move |rank| (row, rank));
    let expected: Vec<f32> = (0..rows)
        .flat_map(row)
        .flat_map(|(row, rank)| all[rank][row * cols[rank]..][..cols[rank]].to_vec())
        .collect();
    assert_eq!(bits(&out), bits(&expected), "all_gather {op} of {rows} x {cols:?}");
}

#[test]
fn two_thousand_mixed_operations_equal_the_serial_order_at_every_world() {
    for world in 1..=8 {
        let ops = if world == 3 { 2000 } else { 300 };
        // The counter of pieces wraps on the way.
        with_ranks(world, Wait::Sleep, u32::MAX - 100, |mut comm| {
            (0..ops).for_each(|op| run_op(&mut comm, op));
        });
    }
}

#[test]
fn spinning_ranks_equal_the_serial_order() {
    with_ranks(2, Wait::SpinThenSleep, 0, |mut comm| {
        (0..2000).for_each(|op| run_op(&mut comm, op));
    });
}

#[test]
fn slow_ranks_only_cost_time() {
    with_ranks(3, Wait::SpinThenSleep, 0, |mut comm| {
        let mut random = Random(comm.rank() as u64 + 1);
        for op in 0..60 {
            thread::sleep(Duration::from_micros(random.below(2000) as u64));
            run_op(&mut comm, op);
        }
    });
}

#[test]
fn no_wake_up_is_lost() {
    // A lost one costs a whole sleep of 100 ms; a busy machine may cause a few as long.
    with_ranks(2, Wait::Sleep, 0, |mut comm| {
        let mut late = 0;
        for _ in 0..3000 {
            let began = Instant::now();
            comm.all_reduce(&mut [1.0]).unwrap();
            late += u32::from(began.elapsed() > Duration::from_millis(95));
            assert!(late < 10, "ten wake-ups came late");
        }
    });
}

#[test]
fn gathered_parts_follow_each_other() {
    with_ranks(3, Wait::Sleep, 0, |mut comm| {
        let mine = values(1, comm.rank(), [2, 0, 3][comm.rank()]);
        let mut out = [0.0; 5];
        comm.all_gather(&mine, &[2, 0, 3], &mut out).unwrap();
        assert_eq!(out[..2], values(1, 0, 2));
        assert_eq!(out[2..], values(1, 2, 3));
        let refused = comm.all_gather(&mine, &[2, 3], &mut out);
        assert!(matches!(refused, Err(CommError::Args(_))), "{refused:?}");
    });
}

/// How long an abort took to end a wait that had begun long before.
fn abort_takes(wait: Wait) -> Duration {
    let (mut comm, id) = ShmComm::create(2, wait).unwrap();
    let peer = ShmComm::join(&id, 1, 2, wait).unwrap();
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || {
        tell.send(()).unwrap();
        let result = comm.all_reduce(&mut [1.0; 10]);
        (result, Instant::now(), comm.all_reduce(&mut []))
    });
    told.recv().unwrap();
    thread::sleep(Duration::from_millis(110));
    let handle = peer.abort_handle();
    drop(peer);
    let aborted = Instant::now();
    handle.abort();
    let (result, returned, again) = waiter.join().unwrap();
    assert!(matches!(result, Err(CommError::Aborted)), "{result:?}");
    assert!(matches!(again, Err(CommError::Aborted)), "{again:?}");
    returned - aborted
}

#[test]
fn a_rank_alone_in_a_wait_returns_when_aborted() {
    for wait in [Wait::Sleep, Wait::SpinThenSleep] {
        let took = [(); 4].map(|()| abort_takes(wait));
        // The bell wakes it, not the end of a sleep of 100 ms; on a busy machine not every time.
        assert!(took.iter().any(|took| *took < Duration::from_millis(50)), "{took:?}");
        assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
    }
}

/// What went wrong on each rank; they must all notice, and none may hang.
fn mismatch(
    world: usize,
    op: impl Fn(&mut ShmComm) -> Result<(), CommError> + Sync,
) -> Vec<String> {
    with_ranks(world, Wait::Sleep, 0, |mut comm| {
        comm.all_reduce(&mut [1.0]).unwrap();
        let error = op(&mut comm).unwrap_err();
        assert!(matches!(comm.all_reduce(&mut []), Err(CommError::Aborted)));
        error.to_string()
    })
}

#[test]
fn ranks_in_different_operations_name_each_other() {
    let told = mismatch(3, |comm| match comm.rank() {
        2 => comm.all_reduce(&mut [0.0; 8]),
        _ => comm.all_reduce(&mut [0.0; 9]),
    });
    assert_eq!(
        told[0],
        "rank 0 does all_reduce #2 of 9 values while rank 2 does all_reduce #2 of 8 values"
    );
    assert_eq!(
        told[2],
        "rank 2 does all_reduce #2 of 8 values while rank 0 does all_reduce #2 of 9 values"
    );

    let told = mismatch(2, |comm| match comm.rank() {
        0 => comm.all_reduce(&mut vec![0.0; 3 * PIECE_FLOATS]),
        _ => comm.all_gather(&[], &[0, 0], &mut []),
    });
    assert!(told[1].starts_with("rank 1 does all_gather #2 of 0 values"), "{told:?}");

    // As many values, divided otherwise.
    let told = mismatch(2, |comm| match comm.rank() {
        0 => comm.all_gather(&[0.0; 2], &[2, 1], &mut [0.0; 3]),
        _ => comm.all_gather(&[0.0; 2], &[1, 2], &mut [0.0; 3]),
    });
    assert!(told[0].contains("(parts "), "{told:?}");
}

#[test]
fn a_rank_that_is_an_operation_behind_is_noticed() {
    let told = mismatch(2, |comm| {
        comm.sequence += u32::try_from(comm.rank()).unwrap();
        comm.all_reduce(&mut [0.0; 9])
    });
    assert!(told[0].contains("#2 of") && told[0].contains("#3 of"), "{told:?}");
}

fn refusal(result: Result<ShmComm, CommError>) -> String {
    result.err().expect("must not join").to_string()
}

#[test]
fn only_what_fits_may_join() {
    let (comm, id) = ShmComm::create(3, Wait::Sleep).unwrap();
    let join = |id: &CommId, rank, world| ShmComm::join(id, rank, world, Wait::Sleep);
    let same = CommId::from_bytes(id.as_bytes()).unwrap();
    let first = join(&same, 1, 3).unwrap();
    assert!(refusal(join(&id, 1, 3)).contains("rank 1 has joined already"));
    assert!(refusal(join(&id, 0, 3)).contains("rank 0 has joined already"));
    assert!(refusal(join(&id, 1, 2)).contains("2 ranks need"));
    assert!(refusal(join(&id, 3, 3)).contains("rank 3 of 3"));
    assert!(ShmComm::create(0, Wait::Sleep).is_err());
    assert!(ShmComm::create(65, Wait::Sleep).is_err());

    let text = std::str::from_utf8(id.as_bytes()).unwrap();
    let secret = text.rsplit(' ').next().unwrap();
    let forged = text.replace(secret, &"0".repeat(32));
    assert!(
        refusal(join(&CommId::from_bytes(forged.as_bytes()).unwrap(), 2, 3))
            .contains("another file")
    );
    assert!(!format!("{id}").contains(secret));
    let piece_floats = &comm.region.header().piece_floats;
    let right = piece_floats.swap(1, SeqCst);
    assert!(refusal(join(&id, 2, 3)).contains("another build"));
    piece_floats.store(right, SeqCst);
    join(&id, 2, 3).unwrap();

    drop((comm, first));
    let gone = refusal(join(&id, 2, 3));
    assert!(gone.contains("rank 0 must live") || gone.contains("not a sealed"), "{gone}");
}

#[test]
fn an_id_leads_nowhere_but_to_a_sealed_memory_file() {
    for bad in
        ["", "binfer-shm", "binfer-shm 1 2", "binfer-shm 1 ../../etc/passwd 00", "other 1 2 3"]
    {
        assert!(CommId::from_bytes(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(CommId::from_bytes(&[0xff; 40]).is_err());
    let null = std::fs::File::open("/dev/null").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&null);
    let text = format!("binfer-shm {} {fd} {:032x}", std::process::id(), 7);
    let id = CommId::from_bytes(text.as_bytes()).unwrap();
    assert!(refusal(ShmComm::join(&id, 1, 2, Wait::Sleep)).contains("not a sealed memory file"));
}

#[test]
fn the_memory_cannot_shrink_and_stays_small() {
    let (comm, id) = ShmComm::create(8, Wait::Sleep).unwrap();
    let file = id.open().unwrap();
    assert!(rustix::fs::ftruncate(&file, 0).is_err());
    assert!(rustix::fs::fstat(&file).unwrap().st_size < 5 << 20);
    assert_eq!((comm.rank(), comm.world()), (0, 8));
}

#[test]
fn waiting_suits_the_cores() {
    assert_eq!(Wait::suiting(2, 1, 2), Wait::SpinThenSleep);
    assert_eq!(Wait::suiting(2, 2, 2), Wait::Sleep);
}
