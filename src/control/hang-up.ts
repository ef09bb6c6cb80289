/**
 * The end of a tool whose terminal has gone: by SIGHUP with its own effect. Node's end would set the
 * terminal's modes first, and crash because there is none to set.
 */
export function endByHangUp(): void {
  process.removeAllListeners('SIGHUP');
  process.kill(process.pid, 'SIGHUP');
}
