-- Sends every image that arrives to the node, but none of the node's own results.
function OnStoredInstance(id, tags, metadata, origin)
   if tags['Manufacturer'] ~= 'fedhelp-edge' then
      SendToModality(id, 'node')
   end
end
