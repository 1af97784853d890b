//! Work on a target that may hang, done by a child process.
//!
//! A process that touches a dead NFS or CIFS mount waits in the kernel, where no signal reaches it. So the
//! daemon never touches a mount itself: it starts itself again with a hidden verb, gives the request as one
//! JSON line, and reads lines until the answer. A child that says nothing for too long is killed; one that
//! cannot be killed is left behind, and nobody waits for it.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `protocol` | what is asked, and what is answered, a JSON line each |
//! | `call` | the side that asks: the child started, watched, and killed or left behind |
//! | `serve` | the child's side |
//! | `read_back` | a copy read back, by a child or not, and what was found recorded |

mod call;
mod protocol;
mod read_back;
mod serve;

pub use self::call::{FromSource, TimeUp, call};
pub use self::protocol::{At, Reply, Request};
pub use self::read_back::{verify_copy, verify_copy_with};
pub use self::serve::serve;

use std::time::Duration;

/// The hidden verb the child is started with.
pub const VERB: &str = "internal-target-io";

/// How often the child says that it is still at it.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
