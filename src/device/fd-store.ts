/**
 * A device's store in the service manager's file descriptor store (systemd: FDSTORE=1 of sd_notify(3)):
 * both its memory files are kept there while this process lives, and passed to the next one under
 * their names, NAME.table and NAME.arena.
 */

import { RefusedError } from '../base/errors.ts';
import { closeFd } from '../native/fd.ts';
import {
  makePassedFiles,
  type PassedFiles,
  passOn,
  takeUpPassedFiles,
} from '../store/passed-files.ts';
import { completeHeader, type StoreFiles } from '../store/store-files.ts';
import type { StoreIdentity } from '../store/store-header.ts';
import type { ServiceManager } from './service-manager.ts';

const HOW_TO_DROP =
  'to drop it: systemctl stop (FileDescriptorStorePreserve=yes: systemctl clean --what=fdstore)';

export class FdStore {
  readonly #manager: ServiceManager;
  readonly #names: Readonly<Record<keyof PassedFiles, string>>;
  readonly #warn: (message: string) => void;

  constructor(manager: ServiceManager, device: string, warn: (message: string) => void) {
    this.#manager = manager;
    this.#names = { table: `${device}.table`, arena: `${device}.arena` };
    this.#warn = warn;
  }

  /** Settings of the devices whose stores the manager has kept, by name. */
  static keptSettings(manager: ServiceManager): Map<string, string> {
    const kept = new Map<string, string>();
    for (const { fd, name } of manager.passed) {
      if (!name.endsWith('.table')) continue;
      const header = completeHeader(fd);
      if (header !== undefined) kept.set(header.name, header.settings);
    }
    return kept;
  }

  /** The files that the manager has kept, or new ones. Throws RefusedError. */
  open(identity: StoreIdentity): StoreFiles {
    const { isThere, storeMax } = this.#manager;
    if (!isThere) throw new RefusedError('--fdstore: expected NOTIFY_SOCKET of a service manager');
    if (this.#names.table.includes(':')) {
      throw new RefusedError(
        `--fdstore: expected a device name without a colon, got '${identity.name}'`,
      );
    }
    // More than it keeps it drops, and says nothing.
    const needed = this.#manager.wouldKeep(Object.values(this.#names), 1);
    if (storeMax !== undefined && storeMax < needed) {
      throw new RefusedError(
        `--fdstore: expected FileDescriptorStoreMax=${needed} at least, got ${storeMax}`,
      );
    }
    const tables = this.#manager.take(this.#names.table);
    const arenas = this.#manager.take(this.#names.arena);
    try {
      return this.#takeUp(tables, arenas, identity) ?? makePassedFiles(identity);
    } finally {
      for (const fd of [...tables, ...arenas]) closeFd(fd);
    }
  }

  #takeUp(
    tables: readonly number[],
    arenas: readonly number[],
    identity: StoreIdentity,
  ): StoreFiles | undefined {
    const [table, arena] = [tables[0], arenas[0]];
    if (table === undefined && arena === undefined) return undefined;
    const names = this.#names;
    try {
      if (tables.length > 1 || arenas.length > 1) {
        const got = `${tables.length} and ${arenas.length}`;
        throw new RefusedError(`${names.table}, ${names.arena}: expected one of each, got ${got}`);
      }
      if (table !== undefined && arena !== undefined) {
        const passed = {
          table: { fd: table, name: names.table },
          arena: { fd: arena, name: names.arena },
        };
        const files = takeUpPassedFiles(passed, identity);
        if (files !== undefined) return files;
      }
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      throw new RefusedError(`${error.message}; ${HOW_TO_DROP}`);
    }
    this.#warn('what the service manager has kept is no whole store: a new one is made');
    this.remove();
    return undefined;
  }

  /** Has the manager keep them. Throws RefusedError or SystemError where it cannot be told. */
  keep(files: StoreFiles): void {
    passOn(files, (which, fd) => this.#manager.storeDescriptors(this.#names[which], [fd]));
  }

  /** Has the manager let go of them, as keep(). */
  remove(): void {
    this.#manager.removeDescriptors(this.#names.table);
    this.#manager.removeDescriptors(this.#names.arena);
  }
}
