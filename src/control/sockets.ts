/**
 * Where front ends and people connect: paths that the daemon listens at, a descriptor that it has
 * inherited, or sockets that the service manager has opened (LISTEN_FDS): one by a device's name is that
 * device's, one by the name `control` is the control socket; of a single device, any other is its own.
 */

import { mkdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { RefusedError, UsageError } from '../base/errors.ts';
import {
  CONTROL_ACCESS,
  frontEndAccess,
  isListening,
  type ListeningSocket,
  listeningSocket,
  openListeningSocket,
  streamFault,
} from '../device/endpoint.ts';
import type { ServiceManager } from '../device/service-manager.ts';
import type { DeviceSocket } from './managed-device.ts';
import { DEFAULT_CONTROL_DIRECTORY } from './paths.ts';
import { type DaemonPlan, socketPathOf } from './plan.ts';

const CONTROL_NAME = 'control';

/** Whether the service manager has opened sockets for front ends. */
export function hasPassedSockets(manager: ServiceManager): boolean {
  return manager.sockets.some(({ name }) => name !== CONTROL_NAME);
}

/** What sockets are to lie in: the control socket may be there, too. Throws RefusedError. */
export function makeSocketDirectory({ frontEnd }: DaemonPlan): void {
  if (frontEnd.kind === 'directory') makeDirectory(frontEnd.path);
}

/** The names of those that the service manager has opened and nobody has taken, for people. */
export function unusedSockets({ frontEnd }: DaemonPlan, manager: ServiceManager): string[] {
  // One of them may be known by its number.
  const ownFd = frontEnd.kind === 'fd' ? frontEnd.fd : undefined;
  return manager.sockets.filter(({ fd }) => fd !== ownFd).map(({ name }) => name);
}

/** Opens or takes up where the device's front ends connect. Throws RefusedError, SystemError. */
export function openDeviceSocket(
  { frontEnd, socketGroup }: DaemonPlan,
  manager: ServiceManager,
  name: string,
): DeviceSocket {
  switch (frontEnd.kind) {
    case 'path':
      return passed(manager, name) ?? ofPath(resolve(frontEnd.path), socketGroup);
    case 'fd':
      return inherited(frontEnd.fd, '--fd');
    case 'passed':
      return passed(manager, name) ?? onlyPassed(manager, name);
    case 'directory': {
      const found = passed(manager, name);
      return found ?? ofPath(socketPathOf(frontEnd.path, name), socketGroup);
    }
  }
}

/** Throws RefusedError, SystemError. */
export function openControlSocket(path: string, manager: ServiceManager): ListeningSocket {
  const passedSocket = passed(manager, CONTROL_NAME);
  if (passedSocket?.isListening === false) {
    throw new RefusedError(`LISTEN_FDNAMES: ${CONTROL_NAME}: expected a socket that listens`);
  }
  if (passedSocket !== undefined) {
    return { fd: passedSocket.fd, path: 'passed by the service manager', remove() {} };
  }
  if (dirname(path) === DEFAULT_CONTROL_DIRECTORY) makeDirectory(DEFAULT_CONTROL_DIRECTORY);
  return openListeningSocket(path, CONTROL_ACCESS);
}

/** One that listens already, another process's until now. */
export function takenOverSocket(fd: number, path: string | undefined): DeviceSocket {
  return path === undefined
    ? inherited(fd, 'take-over')
    : { ...listeningSocket(fd, path), isListening: true };
}

function ofPath(path: string, group: string | undefined): DeviceSocket {
  const listening = openListeningSocket(path, frontEndAccess(group));
  return { ...listening, isListening: true };
}

/** Of another kind it would be served never: nobody connects, or accepting fails. */
function inherited(fd: number, where: string): DeviceSocket {
  const fault = streamFault(fd);
  if (fault !== undefined) {
    throw new RefusedError(
      `${where}: expected a Unix stream socket that listens or is connected, got ${fault}`,
    );
  }
  return { fd, path: undefined, isListening: isListening(fd), remove() {} };
}

/** What is refused stays the manager's. */
function passed(manager: ServiceManager, name: string): DeviceSocket | undefined {
  const where = `LISTEN_FDNAMES: ${name}`;
  const [found, ...more] = manager.sockets.filter((socket) => socket.name === name);
  if (found === undefined) return undefined;
  if (more.length > 0) {
    throw new RefusedError(`${where}: expected one socket, got ${more.length + 1}`);
  }
  const socket = inherited(found.fd, where);
  manager.takeSockets(name);
  return socket;
}

/** Whatever it is called: systemd's name for it is the socket unit's. */
function onlyPassed(manager: ServiceManager, device: string): DeviceSocket {
  const names = manager.sockets.map(({ name }) => name).filter((name) => name !== CONTROL_NAME);
  const [name] = names;
  if (names.length === 1 && name !== undefined) return passed(manager, name)!;
  throw new UsageError(
    `LISTEN_FDNAMES: expected one socket, or one called ${device}, got ${names.join(', ')}`,
  );
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw new RefusedError(`socket directory: ${(error as Error).message}`);
  }
}
