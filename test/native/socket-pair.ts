/** Two connected sockets, made the way front end and back end make theirs. For tests. */

import { join } from 'node:path';
import { closeFd } from '../../src/native/fd.ts';
import { acceptConnection, connectUnix, listenUnix } from '../../src/native/socket.ts';
import { withFolder } from '../models/descriptors.ts';

/** The connecting end and the accepted end. */
export function socketPair(): [connected: number, accepted: number] {
  return withFolder((folder) => {
    const path = join(folder, 'pair.sock');
    const listener = listenUnix(path);
    const connected = connectUnix(path);
    const accepted = acceptConnection(listener);
    closeFd(listener);
    return [connected, accepted];
  });
}
