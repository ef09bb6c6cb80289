/**
 * SIGUSR1 opens Node's debugger at 127.0.0.1:9229, where every user of this machine may attach and run
 * code as this process. So it is given another meaning, none: each program imports this first. Until
 * then, for as long as Node itself begins, the signal still does what Node wants.
 */

process.on('SIGUSR1', () => {});
