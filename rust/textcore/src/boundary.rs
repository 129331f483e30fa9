// SPDX-License-Identifier: Apache-2.0
//! What crosses the C boundary: views of the caller's memory, owned byte and id buffers, status codes, panics caught.

use std::any::Any;
use std::fmt::Display;
use std::panic::{catch_unwind, AssertUnwindSafe};

pub const OK: i32 = 0;

/// The codes of textcore.h.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 1,
    Corrupt = 2,
    Unsupported = 3,
    ResourceExhausted = 4,
    Internal = 5,
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Display) -> Self {
        Failure { code, message: message.to_string() }
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// Bytes of the caller, valid during one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    data: *const u8,
    size: usize,
}

impl View {
    /// # Safety
    /// `data` points to `size` readable bytes, or `size` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 || self.data.is_null() {
            return &[];
        }
        std::slice::from_raw_parts(self.data, self.size)
    }

    /// As `bytes`, checked to be UTF-8; `what` names it in the error.
    ///
    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes()).map_err(|e| {
            Failure::new(Code::InvalidArgument, format!("{what} is not UTF-8 at byte {}", e.valid_up_to()))
        })
    }
}

/// A slice of `count` values of the caller.
///
/// # Safety
/// `data` points to `count` readable values, or `count` is 0.
pub unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 || data.is_null() {
        return &[];
    }
    std::slice::from_raw_parts(data, count)
}

/// Bytes that the caller owns until textcore_bytes_free.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    pub fn new(content: String) -> Self {
        let content = content.into_bytes().into_boxed_slice();
        let size = content.len();
        Bytes { data: Box::into_raw(content).cast(), size }
    }
}

/// Token ids that the caller owns until textcore_ids_free.
#[repr(C)]
pub struct Ids {
    data: *mut i32,
    size: usize,
}

impl Ids {
    pub fn new(content: Vec<i32>) -> Self {
        let content = content.into_boxed_slice();
        let size = content.len();
        Ids { data: Box::into_raw(content).cast(), size }
    }
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| s.to_string())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_string());
    format!("panic: {text}")
}

/// Runs the body of an exported function. A failure or a panic is written to `error` (may be null) and its code
/// returned; otherwise OK, and `error` stays untouched.
///
/// # Safety
/// `error` is null or points to writable memory; what it held is overwritten, not freed.
pub unsafe fn guard(error: *mut Bytes, body: impl FnOnce() -> Outcome<()>) -> i32 {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(Code::Internal, panic_message(payload)),
    };
    if !error.is_null() {
        error.write(Bytes::new(failure.message));
    }
    failure.code as i32
}

/// As `guard` for functions that cannot fail but whose library code might panic: the panic becomes `otherwise`.
pub fn guard_value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// # Safety
/// `pointer` came from `Box::into_raw` of this library and is not used again.
pub unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        let boxed = Box::from_raw(pointer);
        // A panicking destructor must not unwind into C++ either.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(boxed)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn textcore_bytes_free(bytes: Bytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn textcore_ids_free(ids: Ids) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn textcore_provoke_panic(error: *mut Bytes) -> i32 {
    guard(error, || panic!("provoked"))
}
