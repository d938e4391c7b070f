//! Where memory comes from: jemalloc, which asks the kernel for huge pages. Decision 0028 has why.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What jemalloc is told (its manual, `opt.thp`). It is read with the first piece of memory, before anything of ours runs;
/// `_RJEM_MALLOC_CONF` in the environment has the last word.
// SAFETY: jemalloc looks for this symbol, expects a pointer to a text that ends with a zero, and only reads it.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: &[u8; 11] = b"thp:always\0";
